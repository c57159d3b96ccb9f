//! The agent: one per host; follows the goal, fetches, activates, reports.
