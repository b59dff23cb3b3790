//! `bursar`: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    bursar::cli::run(std::env::args_os())
}
