//! What looks over all hosts of a large env found lately.
//!
//! Each rollout is looked at every second and at every report, by whoever watches it, too. Over
//! hundreds of thousands of hosts such a look lasts up to a second, also within a write that
//! others wait for. What is kept is no older than two reports of a region lie apart, and what
//! regions say of their hosts is that old anyway. Of a small env nothing is kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::coordinator::walk::{OLD_MAX, WITHIN_MAX};
use crate::model::id::EnvName;
use crate::store::db::{DbError, Tx, hosts};

/// Looks that are kept; as many rollouts of different apps move at once in a large installation.
const KEPT_MAX: usize = 256;

/// What was found, by what was looked for.
#[derive(Debug)]
pub(super) struct Lately<K, V>(Mutex<Vec<(Instant, K, Arc<V>)>>);

impl<K, V> Default for Lately<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq, V> Lately<K, V> {
    /// What was found for `key` lately, or what a look over the hosts of `env` finds now.
    ///
    /// # Errors
    /// What `look` says, or when the database fails.
    pub(super) fn or_look(
        &self,
        (tx, env): (&Tx, &EnvName),
        key: K,
        look: impl FnOnce(&K) -> Result<V, DbError>,
    ) -> Result<Arc<V>, DbError> {
        if !hosts::are_more(tx, env, WITHIN_MAX)? {
            return Ok(Arc::new(look(&key)?));
        }
        let began = Instant::now();
        if let Some(found) = self.find(&key) {
            return Ok(found);
        }
        let found = Arc::new(look(&key)?);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT_MAX {
            all.remove(0);
        }
        all.push((began, key, found.clone()));
        Ok(found)
    }

    fn find(&self, key: &K) -> Option<Arc<V>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(began, ..)| began.elapsed() < OLD_MAX);
        all.iter().find(|(_, known, _)| known == key).map(|(.., found)| found.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::walk::tests::put_hosts;
    use crate::store::db::conformance::both;

    #[tokio::test]
    async fn a_large_env_is_looked_over_once_for_the_same_and_a_small_one_each_time() {
        let (_folder, databases) = both().await;
        for db in databases {
            db.write(put_hosts).await.unwrap();
            let found = db.read(|tx| {
                let (large, small) = ("prod".parse().unwrap(), "dev".parse().unwrap());
                let (lately, looks) = (Lately::default(), std::cell::Cell::new(0));
                let look = |env: &EnvName, key| {
                    let found = lately.or_look((tx, env), key, |_: &&str| {
                        looks.set(looks.get() + 1);
                        Ok(looks.get())
                    });
                    found.map(|found| *found)
                };
                let kept = [look(&large, "a")?, look(&large, "b")?, look(&large, "a")?];
                Ok::<_, DbError>((kept, [look(&small, "a")?, look(&small, "a")?]))
            });
            assert_eq!(found.await.unwrap(), ([1, 2, 1], [3, 4]));
        }
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let lately = Lately::default();
        let began = Instant::now().checked_sub(OLD_MAX);
        let old = began.map(|began| (began, 1, Arc::new("old")));
        lately.0.lock().unwrap().extend(old);
        lately.0.lock().unwrap().push((Instant::now(), 2, Arc::new("new")));
        assert_eq!(lately.find(&1), None);
        assert_eq!(lately.find(&2).as_deref(), Some(&"new"));
    }
}
