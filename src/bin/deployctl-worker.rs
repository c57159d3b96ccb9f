//! `deployctl-worker`; see `worker::program`.

fn main() -> std::process::ExitCode {
    deployctl::worker::program::main()
}
