//! `pysecure`, the program. All of it is in the library; this hands over the arguments and the exit code.

fn main() -> std::process::ExitCode {
    pysecure::cli::main()
}
