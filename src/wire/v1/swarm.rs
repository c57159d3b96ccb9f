//! Swarm: what agents say to their region's tracker and to each other.
