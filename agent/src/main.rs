//! The `umemd` binary: parse, run, say what went wrong.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use umemd::{
    cli::{Cli, Command, PagepoolArgs, RuleCommand},
    client::{self, ClientError, Target},
    config::{ConfigError, RunConfig},
    control::{self, Outcome, namespace},
    doctor, drops, logged,
    outlet::Outlet,
    page_pool,
    protocol::{Changed, RefusalKind, Request, RuleListing},
    report,
    steer::{self, Explanation, capture},
};

/// How long the last words wait for whoever reads them.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // Where the system gives 2 MiB unasked, stacks and heaps would take them for a few KiB each: before there are
    // threads. A UMEM is mapped with the huge pages that it asks for. What has no such call has no such pages either.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let cli = Cli::parse();
    let log = match Outlet::new("log", io::stderr()) {
        Ok(log) => log,
        Err(_) => return ExitCode::FAILURE,
    };
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("UMEMD_LOG", "info"))
        .format(|out, record| {
            logged::count(record.level());
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "umemd: {level}: {}", record.args())
        })
        .target(env_logger::Target::Pipe(Box::new(log.clone())))
        .init();

    let code = run(cli).unwrap_or_else(|error| {
        // One line per cause: the outermost says what was being done, the last one why it failed.
        log.insist(format!("umemd: error: {error:#}\n"));
        if is_usage(&error) { ExitCode::from(2) } else { ExitCode::FAILURE }
    });
    log.drain(PATIENCE);
    code
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(args) => {
            let config = RunConfig::try_from(*args)?;
            // A capture to standard output has that for itself.
            let piped = config.capture.as_ref().is_some_and(|capture| capture.file.is_none());
            let out: Box<dyn io::Write + Send> =
                if piped { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
            let out = Outlet::new("report", out).context("cannot start a thread")?;
            Ok(match control::run(config, out)? {
                Outcome::Conserved => ExitCode::SUCCESS,
                Outcome::Violated | Outcome::Unsaid | Outcome::Lost => ExitCode::FAILURE,
                Outcome::Interrupted => ExitCode::from(130),
            })
        }
        Command::Rule(command) => match command.request()? {
            Some((control, request)) => ask(control, &request, command.json()),
            None => rule(command),
        },
        Command::Reload(args) => {
            ask(&args.control.control, &Request::Reload { force: args.force }, args.json)
        }
        Command::Doctor(args) => {
            let report = doctor::examine(&args.ifaces)?;
            print(&if args.json { report.json() } else { report.text() })?;
            Ok(if report.is_bad() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Command::Status(args) => {
            let target = args.agent.target();
            let status = client::status(&target)?;
            if args.json {
                return print(&(status.json() + "\n"));
            }
            let rules: Option<RuleListing> = match &target {
                Target::Socket(path) => Some(client::ask(path, &Request::RuleList)?),
                Target::Url(_) => None,
            };
            print(&report::status(&status, rules.as_ref()))
        }
        Command::Pagepool(args) => pagepool(&args).map(|()| ExitCode::SUCCESS),
        Command::Drops(args) => {
            let status = client::status(&args.agent.target())?;
            let text = if args.json { drops::json(&status) } else { drops::text(&status, args.all) };
            print(&text)
        }
        #[cfg(feature = "tui")]
        Command::Top(args) => Ok(match umemd::top::run(args.target())? {
            None => ExitCode::SUCCESS,
            Some(signal) => ExitCode::from(128 + signal),
        }),
    }
}

/// Asks a running agent about its rules, or to change them.
fn ask(control: &Path, request: &Request, json: bool) -> Result<ExitCode> {
    let text = match request {
        Request::RuleList => {
            let listing: RuleListing = client::ask(control, request)?;
            if json { serde_json::to_string(&listing)? + "\n" } else { report::rules(&listing) }
        }
        _ => {
            let changed: Changed = client::ask(control, request)?;
            for warning in &changed.warnings {
                log::warn!("{warning}");
            }
            if json { serde_json::to_string(&changed)? + "\n" } else { report::changed(&changed) }
        }
    };
    print(&text)
}

/// Whether what failed was asked wrongly.
fn is_usage(error: &anyhow::Error) -> bool {
    let refusal = error.downcast_ref::<ClientError>();
    error.is::<ConfigError>()
        || refusal.is_some_and(
            |error| matches!(error, ClientError::Refused(refusal) if refusal.kind == RefusalKind::Usage),
        )
}

/// A reader that went away (`umemd drops | head`) is no error of ours.
fn print(text: &str) -> Result<ExitCode> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn pagepool(args: &PagepoolArgs) -> Result<()> {
    if let Some(netns) = &args.netns {
        namespace::enter(netns)?;
    }
    page_pool::run(&args.ifaces, args.netns.as_deref(), args.watch, args.json, &mut io::stdout())
}

/// `umemd rule check` and `match`: needs no interface, no kernel and no rights.
fn rule(command: RuleCommand) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match command {
        // Whoever has a running agent to ask.
        RuleCommand::Add(_)
        | RuleCommand::Del { .. }
        | RuleCommand::List { .. }
        | RuleCommand::Replace { .. }
        | RuleCommand::Default { .. } => unreachable!("it is a request"),
        RuleCommand::Check { rule } => {
            let rules = steer::compile(&[rule]).map_err(ConfigError::from)?;
            if let Some(explanation) = Explanation::of(&rules) {
                writeln!(out, "{explanation}")?;
            }
        }
        RuleCommand::Match { rule, file, switch_tag, json } => {
            let rules = steer::compile(&[rule]).map_err(ConfigError::from)?;
            let capture: Box<dyn io::Read + Send> = if file.as_os_str() == "-" {
                Box::new(io::stdin())
            } else {
                Box::new(File::open(&file).with_context(|| format!("cannot open {}", file.display()))?)
            };
            let counted = capture::count(&rules[0], switch_tag.bytes(), capture)
                .with_context(|| format!("cannot read {}", file.display()))?;
            if json {
                writeln!(out, "{}", serde_json::to_string(&counted)?)?;
            } else {
                writeln!(out, "{} of {} packets match", counted.matched, counted.packets)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
