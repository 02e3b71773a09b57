//! What a packet costs in user space, on rings in memory: instructions, and how two workers scale.
//!
//! ```sh
//! cargo bench -p datapath [-- [--json] [--check FILE] [--check-scale] [NAME]]
//! ```
//!
//! Instructions are counted by valgrind's callgrind inside of turns only, so that they are the same however
//! busy the machine is; `--check` holds them to what is asked, and where they were recorded to what is recorded. The
//! factor of two workers over one is the median of many short pairs of runs, by the time that they had a processor;
//! `--check-scale` fails if it is too small.

mod figures;
mod instructions;
mod scale;
mod subject;

use std::env;
use std::process::ExitCode;

use subject::{Case, Subject};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == instructions::CHILD) {
        instructions::run_child(&args[1..]);
        return ExitCode::SUCCESS;
    }
    let json = args.iter().any(|arg| arg == "--json");
    let check = args.iter().position(|arg| arg == "--check").and_then(|at| args.get(at + 1));
    let name = args.iter().find(|arg| !arg.starts_with("--") && Some(*arg) != check);
    let wanted = |name_of: &str| name.is_none_or(|name| name_of.contains(name.as_str()));
    let cases: Vec<Case> = Case::all().into_iter().filter(|case| wanted(case.subject.name())).collect();
    if let Some(file) = check {
        return instructions::check(file, &cases);
    }
    let subjects = [Subject::Drop, Subject::Reflect].into_iter().filter(|subject| wanted(subject.name()));
    if args.iter().any(|arg| arg == "--check-scale") {
        return scale::check(subjects);
    }
    for case in &cases {
        let Some(counted) = instructions::count(*case) else {
            eprintln!("valgrind is needed to count instructions: apt-get install valgrind");
            return ExitCode::from(2);
        };
        let (name, batch, frames) = (case.subject.name(), case.batch, case.frames);
        if json {
            println!(
                "{{\"bench\":\"{name}\",\"batch\":{batch},\"frames\":{frames},\
                 \"instructions_per_packet\":{counted:.2}}}"
            );
        } else {
            println!("{name:8} batch {batch:3}, {frames:6} frames: {counted:7.2} instructions per packet");
        }
    }
    for subject in subjects {
        let Some(factor) = scale::factor(subject) else { continue };
        let name = subject.name();
        if json {
            println!("{{\"bench\":\"{name}\",\"workers\":2,\"factor\":{factor:.2}}}");
        } else {
            println!("{name:8} two workers are {factor:.2} times one");
        }
    }
    ExitCode::SUCCESS
}
