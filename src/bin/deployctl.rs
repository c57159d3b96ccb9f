//! `deployctl`, the command line.

fn main() -> std::process::ExitCode {
    deployctl::cli::main()
}
