//! `deployctl-coordinator`; see `coordinator::program`.

/// Of the engine in C, too. With the C library's a fifth of the coordinator's time went into
/// memory that one thread takes and another gives back [decision 0053].
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    deployctl::coordinator::program::main()
}
