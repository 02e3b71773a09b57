//! The configuration file: TOML, whose keys are the names of the flags; rules, which a flag has no room for, are tables.

use std::{
    fmt::Display,
    fs,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::{
    CaptureArgs, DefaultArg, GenerateArgs, HandlerArg, ModeArg, MultiBufferArg, RunArgs, SocketArgs,
    SwitchTagArg,
};
use crate::{
    config::{self, ConfigError, Mac},
    protocol::{self, OtherAction, RuleText},
    steer,
};

/// Larger than any configuration: /dev/zero has no end.
const LONGEST: u64 = 16 << 20;

/// What a file says.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct File {
    iface: Vec<String>,
    netns: Option<String>,
    queues: Option<Vec<u32>>,
    default: Option<OtherAction>,
    handler: Option<HandlerArg>,
    to: Option<String>,
    mode: Option<ModeArg>,
    listen: Option<SocketAddr>,
    control: Option<PathBuf>,
    allow_host: Vec<String>,
    #[serde(deserialize_with = "time")]
    duration: Option<Duration>,
    json: bool,
    #[serde(deserialize_with = "time")]
    leak_after: Option<Duration>,
    force: bool,
    switch_tag: Option<SwitchTagArg>,
    log_program: bool,
    copy: bool,
    zerocopy: bool,
    multi_buffer: Option<MultiBufferArg>,
    frames: Option<u32>,
    frame_size: Option<u32>,
    headroom: Option<u32>,
    huge_pages: bool,
    rx_ring: Option<u32>,
    tx_ring: Option<u32>,
    fill_ring: Option<u32>,
    completion_ring: Option<u32>,
    cpus: Option<Vec<usize>>,
    spin: bool,
    rx_usecs: Option<u32>,
    capture: CaptureTable,
    generate: GenerateTable,
    rule: Vec<RuleText<Spanned<String>>>,
}

/// `[capture]`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct CaptureTable {
    file: Option<PathBuf>,
    snaplen: Option<u32>,
    rotate_size: Option<u64>,
    #[serde(deserialize_with = "time")]
    rotate_time: Option<Duration>,
}

/// `[generate]`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct GenerateTable {
    rate: Option<u64>,
    count: Option<u64>,
    size: Option<u16>,
    #[serde(deserialize_with = "mac")]
    dst_mac: Option<Mac>,
    #[serde(deserialize_with = "mac")]
    src_mac: Option<Mac>,
    dst_addr: Option<IpAddr>,
    src_addr: Option<IpAddr>,
    dst_port: Option<u16>,
    src_port: Option<u16>,
}

/// The file of `umemd rule replace --file`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RulesFile {
    default: Option<OtherAction>,
    rule: Vec<RuleText<Spanned<String>>>,
}

impl File {
    /// Reads a file: its text, and what that says.
    ///
    /// # Errors
    ///
    /// What is wrong, with the line and a caret under the word.
    pub(super) fn read(path: &Path) -> Result<(String, Self), ConfigError> {
        let text = text(path, fs::File::open(path))?;
        let file: Self = parse(path, &text)?;
        check(path, &text, &file.rule)?;
        Ok((text, file))
    }

    /// Fills in what the flags leave open; returns the rules.
    pub(super) fn under(self, args: &mut RunArgs) -> Vec<RuleText> {
        // Destructured without `..`, so that a new key cannot be forgotten.
        let Self {
            iface,
            netns,
            queues,
            default,
            handler,
            to,
            mode,
            listen,
            control,
            allow_host,
            duration,
            json,
            leak_after,
            force,
            switch_tag,
            log_program,
            copy,
            zerocopy,
            multi_buffer,
            frames,
            frame_size,
            headroom,
            huge_pages,
            rx_ring,
            tx_ring,
            fill_ring,
            completion_ring,
            cpus,
            spin,
            rx_usecs,
            capture,
            generate,
            rule,
        } = self;
        if args.ifaces.is_empty() {
            args.ifaces = iface;
        }
        if args.allow_hosts.is_empty() {
            args.allow_hosts = allow_host;
        }
        fill(&mut args.netns, netns);
        fill(&mut args.queues, queues);
        fill(
            &mut args.default,
            default.map(|action| match action {
                OtherAction::Pass => DefaultArg::Pass,
                OtherAction::Drop => DefaultArg::Drop,
            }),
        );
        fill(&mut args.handler, handler);
        fill(&mut args.to, to);
        fill(&mut args.mode, mode);
        fill(&mut args.listen, listen);
        fill(&mut args.control, control);
        fill(&mut args.duration, duration);
        fill(&mut args.leak_after, leak_after);
        fill(&mut args.switch_tag, switch_tag);
        args.json |= json;
        args.force |= force;
        args.log_program |= log_program;

        let sockets: &mut SocketArgs = &mut args.sockets;
        if !sockets.copy && !sockets.zerocopy {
            (sockets.copy, sockets.zerocopy) = (copy, zerocopy);
        }
        fill(&mut sockets.multi_buffer, multi_buffer);
        fill(&mut sockets.frames, frames);
        fill(&mut sockets.frame_size, frame_size);
        fill(&mut sockets.headroom, headroom);
        fill(&mut sockets.rx_ring, rx_ring);
        fill(&mut sockets.tx_ring, tx_ring);
        fill(&mut sockets.fill_ring, fill_ring);
        fill(&mut sockets.completion_ring, completion_ring);
        fill(&mut sockets.cpus, cpus);
        sockets.huge_pages |= huge_pages;
        if !sockets.spin && sockets.rx_usecs.is_none() {
            (sockets.spin, sockets.rx_usecs) = (spin, rx_usecs);
        }
        capture.under(&mut args.capture);
        generate.under(&mut args.generate);
        rule.into_iter().map(plain).collect()
    }
}

impl CaptureTable {
    fn under(self, args: &mut CaptureArgs) {
        let Self { file, snaplen, rotate_size, rotate_time } = self;
        fill(&mut args.file, file);
        fill(&mut args.snaplen, snaplen);
        fill(&mut args.rotate_size, rotate_size);
        fill(&mut args.rotate_time, rotate_time);
    }
}

impl GenerateTable {
    fn under(self, args: &mut GenerateArgs) {
        let Self { rate, count, size, dst_mac, src_mac, dst_addr, src_addr, dst_port, src_port } = self;
        fill(&mut args.rate, rate);
        fill(&mut args.count, count);
        fill(&mut args.size, size);
        fill(&mut args.dst_mac, dst_mac);
        fill(&mut args.src_mac, src_mac);
        fill(&mut args.dst_addr, dst_addr);
        fill(&mut args.src_addr, src_addr);
        fill(&mut args.dst_port, dst_port);
        fill(&mut args.src_port, src_port);
    }
}

fn fill<T>(flag: &mut Option<T>, file: Option<T>) {
    if flag.is_none() {
        *flag = file;
    }
}

/// The rules of a file, and what becomes of all other frames, if it says that.
///
/// # Errors
///
/// As [`File::read`].
pub(super) fn rules(path: &Path) -> Result<(Vec<RuleText>, Option<OtherAction>), ConfigError> {
    let text = if path.as_os_str() == "-" {
        text(path, Ok(io::stdin()))?
    } else {
        text(path, fs::File::open(path))?
    };
    let RulesFile { default, rule } = parse(path, &text)?;
    check(path, &text, &rule)?;
    let rules: Vec<RuleText> = rule.into_iter().map(plain).collect();
    // The agent would refuse the set as well, but it does not know where the file says it.
    if let Err(error) = protocol::compile(rules.clone(), default.unwrap_or(OtherAction::Pass)) {
        let place = config::place(&text, &error).map_or_else(String::new, |place| place + "\n");
        return Err(ConfigError::File { path: path.to_owned(), problem: format!("{place}{error}") });
    }
    Ok((rules, default))
}

fn text(path: &Path, opened: io::Result<impl Read>) -> Result<String, ConfigError> {
    let wrong = |problem| ConfigError::File { path: path.to_owned(), problem };
    let mut text = String::new();
    match opened.and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text)) {
        Err(error) => Err(wrong(format!("cannot read it: {error}"))),
        Ok(bytes) if bytes as u64 > LONGEST => Err(wrong(format!("it has more than {} MiB", LONGEST >> 20))),
        Ok(_) => Ok(text),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::File {
        path: path.to_owned(),
        problem: error.to_string().trim_end().to_owned(),
    })
}

/// Refuses expressions that are none, while it is known where they stand.
fn check(path: &Path, text: &str, rules: &[RuleText<Spanned<String>>]) -> Result<(), ConfigError> {
    for rule in rules {
        if let Err(error) = steer::compile(&[rule.expression.get_ref()]) {
            let line = text[..rule.expression.span().start].matches('\n').count() + 1;
            return Err(ConfigError::File {
                path: path.to_owned(),
                problem: format!("line {line}: {error}"),
            });
        }
    }
    Ok(())
}

fn plain(rule: RuleText<Spanned<String>>) -> RuleText {
    let RuleText { name, expression, action, queues } = rule;
    RuleText { name, expression: expression.into_inner(), action, queues }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map(Some).map_err(D::Error::custom)
}

fn mac<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mac>, D::Error> {
    from_text(deserializer)
}

fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Display,
{
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, env, process};

    use clap::Parser as _;

    use super::{
        super::{Cli, Command},
        *,
    };
    use crate::config::{Handler, RunConfig};

    /// `umemd run --config FILE` with this text, and these flags.
    fn run(text: &str, flags: &str) -> Result<RunConfig, String> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("umemd-test-{}-{number}.toml", process::id()));
        fs::write(&path, text).unwrap();
        let line = format!("umemd run --config {} {flags}", path.display());
        let Command::Run(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            unreachable!("it was `umemd run`")
        };
        let config = RunConfig::try_from(*args);
        fs::remove_file(&path).unwrap();
        // As main does it.
        config.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn the_example_is_what_it_says_and_has_every_key() {
        let text = include_str!("../../dist/umemd.toml");
        let config = run(text, "").unwrap();
        assert_eq!((&config.ifaces[..], config.rules.len()), (&["eth0".to_owned()][..], 3));
        // What is commented out is an example too: of a key that there is, with a value that it takes.
        let all: String =
            text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect();
        let _: File = toml::from_str(&all).unwrap_or_else(|error| panic!("{error}"));
        let said: toml::Table = all.parse().unwrap();
        let keys = |table: &toml::Table| table.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(keys(&said), known::<File>());
        assert_eq!(keys(said["capture"].as_table().unwrap()), known::<CaptureTable>());
        assert_eq!(keys(said["generate"].as_table().unwrap()), known::<GenerateTable>());
        let rules = said["rule"].as_array().unwrap().iter();
        let of_rules: BTreeSet<String> = rules.flat_map(|rule| keys(rule.as_table().unwrap())).collect();
        assert_eq!(of_rules, known::<RuleText>());
    }

    /// The keys of a table, which are said to whom gives another one.
    fn known<T: for<'de> Deserialize<'de>>() -> BTreeSet<String> {
        let error = toml::from_str::<T>("'?' = 1").err().unwrap();
        // Each stands between two of these, and the first one is `?`.
        error.message().split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn flags_override_the_file() {
        let text = "iface = ['eth0']\nhandler = 'reflect'\nframes = 512\nzerocopy = true\n\n[[rule]]\nmatch = 'arp'\n";
        let config = run(text, "").unwrap();
        assert_eq!((config.handler, config.layout.chunk_count()), (Handler::Reflect, 512));
        assert_eq!(config.rules[0].spec.expression, "arp");
        let config = run(text, "--iface eth1 --handler drop --frames 1024 --copy --steer udp").unwrap();
        assert_eq!((config.handler, config.layout.chunk_count()), (Handler::Drop, 1024));
        assert_eq!(
            (config.ifaces, config.bind),
            (vec!["eth1".to_owned()], Some(crate::config::BindMode::Copy))
        );
        assert_eq!((config.rules.len(), &config.rules[0].spec.expression[..]), (1, "udp"));
    }

    #[test]
    fn what_is_wrong_is_shown_where_it_stands() {
        for (text, said) in [
            (
                "iface = ['eth0']\nframez = 1\n",
                "line 2, column 1\n  |\n2 | framez = 1\n  | ^^^^^^\nunknown field `framez`",
            ),
            (
                "iface = ['eth0']\nmode = 'fast'\n",
                "line 2, column 8\n  |\n2 | mode = 'fast'\n  |        ^^^^^^",
            ),
            ("iface = ['eth0'\n", "line 1"),
            (
                "iface = ['eth0']\nhandler = 'drop'\n[generate]\nsize = 60\n",
                "line 4, column 8\n  |\n4 | size = 60\n  |        ^^\n--size needs --handler generate",
            ),
            ("iface = ['eth0']\nleak-after = 'soon'\n", "line 2"),
            (
                "[[rule]]\nmatch = 'arp'\nactoin = 'drop'\n",
                "line 3, column 1\n  |\n3 | actoin = 'drop'\n  | ^^^^^^\nunknown field `actoin`",
            ),
            (
                "[capture]\nfile = 'x'\n snaplem = 96\n",
                "line 3, column 2\n  |\n3 |  snaplem = 96\n  |  ^^^^^^^\nunknown field `snaplem`",
            ),
            (
                "[generate]\nrates = 1\n",
                "line 2, column 1\n  |\n2 | rates = 1\n  | ^^^^^\nunknown field `rates`",
            ),
            (
                "iface = ['eth0']\n[[rule]]\nname = 'a'\nmatch = 'udp dst prot 7'\n",
                "line 4: bad rule: expected `port` or `portrange`, not `prot`\n  udp dst prot 7\n          ^^^^\n",
            ),
            (
                "iface = ['eth0']\nframes = 1000\n",
                "line 2, column 10\n  |\n2 | frames = 1000\n  |          ^^^^\n--frames 1000 is not possible",
            ),
            ("frames = 1024\n", "needs --iface"),
            ("iface = ['eth0']\n[capture]\nsnaplen = 96\n", "--capture"),
            (
                "iface = ['eth0']\n[[rule]]\nmatch = 'arp'\nname = 'x'\n[[rule]]\nmatch = 'ip'\nname = 'x'\n",
                "line 7, column 8\n  |\n7 | name = 'x'\n  |        ^^^\ntwo rules are called `x`",
            ),
        ] {
            let error = run(text, "").unwrap_err();
            assert!(error.contains(".toml: ") && error.contains(said), "{text}\n{error}");
        }
    }

    #[test]
    fn rules_that_are_no_set_are_shown_where_they_stand() {
        let path = env::temp_dir().join(format!("umemd-test-{}-rules.toml", process::id()));
        for (text, said) in [
            ("[[rule]]\nmatch = 'arp'\nqueues = [64]\n", "line 3, column 10\n  |\n3 | queues = [64]\n"),
            (
                "[[rule]]\nmatch = 'arp'\nqueues = []\n",
                "line 3, column 10\n  |\n3 | queues = []\n  |          ^^\nrule `rule1` steers on no queue",
            ),
            ("[[rule]]\nmatch = 'arp'\n[[rule]]\nname = 'rule1'\nmatch = 'ip'\n", ""),
            (
                "[[rule]]\nmatch = 'arp'\nname = 'a'\n[[rule]]\nmatch = 'ip'\nname = 'a'\n",
                "line 6, column 8\n  |\n6 | name = 'a'\n  |        ^^^\ntwo rules are called `a`",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let read = rules(&path);
            fs::remove_file(&path).unwrap();
            match read {
                Ok((rules, default)) => assert!(said.is_empty() && rules.len() == 2 && default.is_none()),
                Err(error) => assert!(!said.is_empty() && error.to_string().contains(said), "{error}"),
            }
        }
    }

    #[test]
    fn it_can_be_read_again_with_the_same_flags() {
        let path = env::temp_dir().join(format!("umemd-test-{}-again.toml", process::id()));
        fs::write(&path, "iface = ['eth0']\n[[rule]]\nmatch = 'arp'\n").unwrap();
        let line = format!("umemd run --config {} --frames 1024", path.display());
        let Command::Run(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            unreachable!()
        };
        let config = RunConfig::try_from(*args).unwrap();
        let source = config.source.clone().unwrap();
        fs::write(&path, "iface = ['eth0']\nframes = 64\ndefault = 'drop'\n").unwrap();
        let again = source.read().unwrap();
        assert_eq!(config.different(&again), [""; 0], "the flag stays, and rules may change");
        assert_eq!((again.rules.len(), again.rules.default.name()), (0, "drop"));
        fs::write(&path, "iface = ['eth1']\nspin = true\n").unwrap();
        assert_eq!(config.different(&source.read().unwrap()), ["iface", "spin"]);
        fs::remove_file(&path).unwrap();
        assert!(source.read().unwrap_err().to_string().contains("cannot read it"));
    }
}
