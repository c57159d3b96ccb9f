//! Who of several is first for something: everybody who knows the same names comes to the
//! same order alone, and of those that one more or one less changes, it is only its share.

use crate::model::digest::Digest;

/// The names in the order of `key`, first the one that it is for.
#[must_use]
pub fn order<'a>(key: &[u8], names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut order: Vec<&str> = names.into_iter().collect();
    order.sort_by_cached_key(|name| weight(key, name));
    order
}

/// The name that is first for `key`; `None`: there is none.
#[must_use]
pub fn first<'a>(key: &[u8], names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().min_by_key(|name| weight(key, name))
}

/// The place of `name` in the order of `key`: the lowest is first.
#[must_use]
pub fn weight(key: &[u8], name: &str) -> [u8; 32] {
    Digest::of(&[key, name.as_bytes()].concat()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_goes_moves_its_share_only_and_shares_are_about_equal() {
        let all = ["http://a:1", "http://b:1", "http://c:1"];
        let mut shares = [0; 3];
        for n in 0..3_000_u32 {
            let key = n.to_le_bytes();
            let chosen = first(&key, all).unwrap();
            assert_eq!(order(&key, all)[0], chosen);
            shares[all.iter().position(|name| *name == chosen).unwrap()] += 1;
            let left = first(&key, all.into_iter().filter(|name| *name != "http://b:1")).unwrap();
            assert!(chosen == left || chosen == "http://b:1");
            assert_eq!(order(&key, all).into_iter().find(|name| *name != "http://b:1"), Some(left));
        }
        assert!(shares.iter().all(|share| (900..1_100).contains(share)), "{shares:?}");
        assert_eq!(first(b"", []), None);
    }
}
