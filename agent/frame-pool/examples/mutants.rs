//! Puts each error of `tests/mutants.txt` into a copy of the crate, and shows that the tests which are said
//! to notice it do.
//!
//! `cargo run -p frame-pool --example mutants [-- NAME..]`, where `NAME` is part of a mutant's name. The exit
//! code is 1 if any of the tests let a mutant live.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

const CRATE_DIR: &str = env!("CARGO_MANIFEST_DIR");

/// One error.
struct Mutant {
    name: String,
    tests: Vec<String>,
    file: PathBuf,
    from: String,
    to: String,
}

/// A test that takes longer than this has noticed, by waiting for ever: each takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("mutants: {error}");
        ExitCode::FAILURE
    })
}

fn run() -> io::Result<ExitCode> {
    let start = Instant::now();
    let chosen: Vec<String> = env::args().skip(1).collect();
    let crate_dir = Path::new(CRATE_DIR);
    let mut mutants = table()?;
    mutants.retain(|mutant| chosen.is_empty() || chosen.iter().any(|name| mutant.name.contains(name)));
    if mutants.is_empty() {
        return Err(io::Error::other(format!("no mutant is called {}", chosen.join(" or "))));
    }
    let copy = Copy::new(crate_dir)?;
    for mutant in &mutants {
        copy.mutate(mutant)?; // Complains before the hard work if a text is no longer there.
    }
    copy.check_tests(&mutants)?;
    let (mut done, mut missed) = (0, 0);
    let total: usize = mutants.iter().map(|mutant| mutant.tests.len()).sum();
    for mutant in &mutants {
        let mutated = copy.mutate(mutant)?;
        let file = copy.crate_dir().join(&mutant.file);
        let original = fs::read_to_string(&file)?;
        fs::write(&file, mutated)?;
        for test in &mutant.tests {
            let since = Instant::now();
            let noticed = !copy.passes(test).map_err(|error| in_mutant(mutant, &error))?;
            done += 1;
            missed += usize::from(!noticed);
            let (verdict, seconds) = (if noticed { "noticed" } else { "MISSED" }, since.elapsed().as_secs());
            println!("{done:3}/{total} {verdict:7} {test:10} {seconds:3} s  {}", mutant.name);
        }
        fs::write(&file, original)?;
    }
    println!(
        "{} mutants, {} noticed, {missed} missed, {} s",
        mutants.len(),
        total - missed,
        start.elapsed().as_secs()
    );
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn in_mutant(mutant: &Mutant, error: &io::Error) -> io::Error {
    io::Error::other(format!("mutant `{}` in {}: {error}", mutant.name, mutant.file.display()))
}

/// All mutants.
fn table() -> io::Result<Vec<Mutant>> {
    Ok(parse(&fs::read_to_string(Path::new(CRATE_DIR).join("tests/mutants.txt"))?))
}

/// Paragraphs: name, tests, file, then lines to remove (`- `) and to insert (`+ `).
fn parse(text: &str) -> Vec<Mutant> {
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
    let paragraphs = text.split("\n\n").map(str::trim_start).filter(|paragraph| !paragraph.trim().is_empty());
    let lines = |paragraph: &str, sign: &str| -> String {
        let lines: Vec<_> = paragraph.lines().filter_map(|line| line.strip_prefix(sign)).collect();
        lines.join("\n")
    };
    paragraphs
        .map(|paragraph| {
            let mut head = paragraph.lines();
            let mut next = || head.next().unwrap_or_default();
            Mutant {
                name: next().to_owned(),
                tests: next().split_whitespace().map(str::to_owned).collect(),
                file: next().into(),
                from: lines(paragraph, "- "),
                to: lines(paragraph, "+ "),
            }
        })
        .collect()
}

/// The text of the mutant's file with the error in it.
fn mutate(crate_dir: &Path, mutant: &Mutant) -> io::Result<String> {
    let original =
        fs::read_to_string(crate_dir.join(&mutant.file)).map_err(|error| in_mutant(mutant, &error))?;
    match original.matches(&mutant.from).count() {
        1 if !mutant.from.is_empty() => Ok(original.replace(&mutant.from, &mutant.to)),
        n => Err(in_mutant(mutant, &io::Error::other(format!("its text is there {n} times, not once")))),
    }
}

/// A workspace of its own, in cargo's folder, that has nothing but a copy of the crate.
struct Copy {
    root: PathBuf,
}

impl Copy {
    fn new(crate_dir: &Path) -> io::Result<Self> {
        let workspace = crate_dir.join("../..").canonicalize()?;
        // This program is in target/PROFILE/examples.
        let target = env::current_exe()?.ancestors().nth(3).map(Path::to_owned);
        let root = target.ok_or_else(|| io::Error::other("this is not run by cargo"))?.join("mutants");
        let copy = Self { root };
        let manifest = fs::read_to_string(workspace.join("Cargo.toml"))?;
        // The lists of members, each from its key to the bracket at its end, make room for this crate alone.
        let mut in_list = false;
        let mut rest = Vec::new();
        for line in manifest.lines() {
            in_list |= line.starts_with("members") || line.starts_with("default-members");
            if !in_list {
                rest.push(line);
            } else if line.ends_with(']') {
                in_list = false;
            }
        }
        let manifest =
            rest.join("\n").replace("[workspace]", "[workspace]\nmembers = [\"agent/frame-pool\"]");
        if copy.crate_dir().exists() {
            fs::remove_dir_all(copy.crate_dir())?;
        }
        copy_dir(crate_dir, &copy.crate_dir())?;
        fs::write(copy.root.join("Cargo.toml"), manifest)?;
        fs::copy(workspace.join("Cargo.lock"), copy.root.join("Cargo.lock"))?;
        Ok(copy)
    }

    fn crate_dir(&self) -> PathBuf {
        self.root.join("agent/frame-pool")
    }

    fn mutate(&self, mutant: &Mutant) -> io::Result<String> {
        mutate(&self.crate_dir(), mutant)
    }

    /// Without a mutant every test must pass, or its failures would say nothing.
    fn check_tests(&self, mutants: &[Mutant]) -> io::Result<()> {
        let mut tests: Vec<_> = mutants.iter().flat_map(|mutant| &mutant.tests).collect();
        tests.sort();
        tests.dedup();
        for test in tests {
            let since = Instant::now();
            if !self.passes(test)? {
                return Err(io::Error::other(format!("`{test}` fails without any mutant")));
            }
            println!("passes without mutants: {test}, {} s", since.elapsed().as_secs());
        }
        Ok(())
    }

    /// Whether a test passes within [`PATIENCE`]. That it compiles is the caller's duty.
    fn passes(&self, test: &str) -> io::Result<bool> {
        let (target, filter) = match test {
            "unit" => (&["--lib"][..], ""),
            "exhaustive" => (&["--test", "law"][..], "histories::"),
            "random" => (&["--test", "law"][..], "model::"),
            "loom" | "traces" | "vectors" => (&["--test", test][..], ""),
            _ => return Err(io::Error::other(format!("there is no test `{test}`"))),
        };
        let mut program = Command::new(self.build(target, test == "loom")?);
        program.arg(filter).current_dir(self.crate_dir()).stdout(Stdio::null()).stderr(Stdio::null());
        program.env("LOOM_MAX_PREEMPTIONS", "3").env("PROPTEST_MAX_SHRINK_ITERS", "0");
        let (mut child, since) = (program.spawn()?, Instant::now());
        while since.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            thread::sleep(Duration::from_millis(10));
        }
        child.kill()?;
        child.wait()?;
        Ok(false)
    }

    /// Builds a test, and says where its program is.
    fn build(&self, target: &[&str], loom: bool) -> io::Result<PathBuf> {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.current_dir(&self.root).args(["test", "--quiet", "--no-run", "--message-format=json"]);
        cargo.args(["--package", "frame-pool"]).args(target);
        cargo.env("CARGO_TARGET_DIR", self.root.join(if loom { "target-loom" } else { "target" }));
        if loom {
            cargo.env("RUSTFLAGS", "--cfg frame_pool_loom");
        }
        let output = cargo.stderr(Stdio::inherit()).output()?;
        let messages = String::from_utf8_lossy(&output.stdout);
        let messages = || messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if !output.status.success() {
            let errors = messages().filter_map(|it| it["message"]["rendered"].as_str().map(str::to_owned));
            return Err(io::Error::other(format!("does not compile\n{}", errors.collect::<String>())));
        }
        let program = messages().find_map(|message| message["executable"].as_str().map(PathBuf::from));
        program.ok_or_else(|| io::Error::other("cargo does not say where the test is"))
    }
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What takes no building: a change of the crate must not leave its mutants behind.
    #[test]
    fn every_mutant_can_be_made_and_a_model_is_said_to_notice_it() {
        let mutants = table().unwrap();
        assert!(mutants.len() > 60);
        for mutant in mutants {
            let mutated = mutate(Path::new(CRATE_DIR), &mutant).unwrap();
            assert!(!mutated.is_empty() && mutant.from != mutant.to, "{}", mutant.name);
            let models = ["loom", "exhaustive", "random"];
            assert!(mutant.tests.iter().any(|test| models.contains(&test.as_str())), "{}", mutant.name);
        }
    }
}
