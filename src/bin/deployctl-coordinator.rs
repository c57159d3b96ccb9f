//! `deployctl-coordinator`; see `coordinator::program`.

fn main() -> std::process::ExitCode {
    deployctl::coordinator::program::main()
}
