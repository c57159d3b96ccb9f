//! Whether the clock that ages are judged by can be believed: one that is weeks ahead makes
//! everything look old.
//!
//! A clock that stood at some time and is far ahead at the next look was wrong before, is wrong
//! now, or nobody looked meanwhile. Which of them nothing here can tell, so ages count for
//! nothing until the clock came back, or went on evenly for as long as anything is kept: then
//! whatever was in use before the jump has its age, however wrong the clock is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::time::UnixMillis;

/// What is known of the clock; durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steadiness {
    /// When it was looked at last.
    pub seen: UnixMillis,
    /// The jump that nobody has explained.
    #[serde(default)]
    pub jump: Option<Jump>,
}

/// A jump ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jump {
    /// The last time before it.
    pub from: UnixMillis,
    /// The first time after it.
    pub to: UnixMillis,
}

/// What counts as a jump, and how long one is remembered, when nothing goes that was in use
/// within `kept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    kept: Duration,
}

impl Bounds {
    /// For things that are kept for so long.
    #[must_use]
    pub fn of(kept: Duration) -> Self {
        Self { kept }
    }

    /// Longest between two looks that may be mere rest: half of what is kept. Of one that is not
    /// noticed the other half is kept all the same; and a machine that is off each night, or for
    /// a week where two are kept, is not doubted for ever.
    #[must_use]
    pub fn plausible(self) -> Duration {
        self.kept / 2
    }
}

impl Steadiness {
    /// A clock that shows `now`, and is believed.
    #[must_use]
    pub fn at(now: UnixMillis) -> Self {
        Self { seen: now, jump: None }
    }

    /// What is known once the clock shows `now`.
    #[must_use]
    pub fn look(self, now: UnixMillis, bounds: Bounds) -> Self {
        let plausible = bounds.plausible();
        let jumped = now > self.seen + plausible;
        let jump = match self.jump {
            None => jumped.then_some(Jump { from: self.seen, to: now }),
            Some(jump) => {
                // Where it would stand had it not jumped.
                let unmoved = jump.from + self.seen.since(jump.to);
                if now <= unmoved + plausible {
                    None
                } else if jumped || now < jump.to {
                    Some(Jump { from: unmoved, to: now })
                } else {
                    Some(jump).filter(|jump| now.since(jump.to) < bounds.kept)
                }
            }
        };
        Self { seen: now, jump }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const BOUNDS: Bounds = Bounds { kept: Duration::from_secs(14 * 86_400) };

    fn day(n: u32) -> UnixMillis {
        UnixMillis(0) + DAY * n
    }

    /// Looks on so many days, one after the other.
    fn looked(days: impl IntoIterator<Item = u32>) -> Steadiness {
        let first = Steadiness::at(day(100));
        days.into_iter().fold(first, |known, n| known.look(day(n), BOUNDS))
    }

    #[test]
    fn a_jump_is_doubted_until_it_came_back_or_is_as_old_as_anything_is_kept() {
        assert_eq!(looked([101, 104, 104]).jump, None, "a weekend");
        assert_eq!(looked([101, 108, 109, 116]).jump, None, "off every other week");
        let jump = Some(Jump { from: day(101), to: day(131) });
        assert_eq!(looked([101, 131]).jump, jump);
        assert_eq!(looked([101, 131, 133]).jump, jump);
        // Set right, after two days of it.
        assert_eq!(looked([101, 131, 133, 103]), Steadiness::at(day(103)));
        // Set right by half, or further off.
        let half = Some(Jump { from: day(103), to: day(115) });
        assert_eq!(looked([101, 131, 133, 115]).jump, half);
        let further = Some(Jump { from: day(103), to: day(160) });
        assert_eq!(looked([101, 131, 133, 160]).jump, further);
        // Believed by and by.
        assert_eq!(looked([101].into_iter().chain(131..145)).jump, jump);
        assert_eq!(looked([101].into_iter().chain(131..=145)).jump, None);
        // Back to before anything: it was ahead all the time.
        assert_eq!(looked([50]).jump, None);
    }

    proptest! {
        /// Whatever the clock does between looks: while it is believed nothing looks as old as
        /// what may go that was in use within half of what is kept, in real time.
        #[test]
        fn nothing_goes_before_its_time_by_one_wrong_clock(
            before in 0u32..20,
            ahead in 0u32..200,
            after in 0u32..60,
        ) {
            // Looked at each hour; the clock is `ahead` days ahead after `before` days.
            let hour = |n: u32| day(100) + Duration::from_secs(3600) * n;
            let (mut known, jumped_at) = (Steadiness::at(hour(0)), before * 24);
            for n in 1..(before + after) * 24 {
                let off = if n > jumped_at { ahead * 24 } else { 0 };
                let now = hour(n + off);
                known = known.look(now, BOUNDS);
                // What was used right before the jump looks so old.
                if n > jumped_at && known.jump.is_none() && now.since(hour(jumped_at)) >= DAY * 14 {
                    prop_assert!(n - jumped_at >= 14 * 12, "{} hours", n - jumped_at);
                }
            }
        }
    }
}
