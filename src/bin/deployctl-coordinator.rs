//! `deployctl-coordinator`; see `coordinator::program`.

/// What SQLite takes in C comes from it, too. With the C library's a sixth to a fifth of the
/// coordinator's time went into memory that one thread takes and another gives back
/// [decision 0053].
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    deployctl::coordinator::program::main()
}
