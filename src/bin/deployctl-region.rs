//! `deployctl-region`; see `region::program`.

/// An eighth less memory for each host that waits than with the C library's [decision 0053].
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    deployctl::region::program::main()
}
