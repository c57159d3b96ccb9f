//! The worker: claims jobs, builds, packs, publishes.
