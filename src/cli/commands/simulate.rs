//! `deployctl simulate`: will a deploy of this size meet its deadline, and what
//! will it cost? Needs no coordinator.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;

use crate::cli::args::duration;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::simulate;
use crate::model::manifest::piece_bytes;
use crate::model::pieces::PIECES_MAX;
use crate::rules::swarm::{Pace, micros};
use crate::simulator::report::Report;
use crate::simulator::{self, Faults, Outcome, Setting, Span};

/// Most hosts of one simulation: about 2 KiB of memory each.
const HOSTS_MAX: u32 = 2_000_000;
/// Most regions.
const REGIONS_MAX: u32 = 1000;
/// Largest artifact, bytes: the manifest's own bound.
const SIZE_MAX: u64 = PIECES_MAX as u64 * (8 << 20);

/// Simulate a deploy: how long, how many bytes, will it meet its deadline
///
/// Runs the very rules that agents and trackers run, in a model of a network on this
/// machine; nothing is contacted. Regions are alike and do not touch each other.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl simulate --hosts 10000 --size 1GB\n  \
deployctl simulate --hosts 300000 --regions 10 --size 10GB --nic 1Gbit --store 100Gbit --racks 40 \
--churn 5% --slow 5% --late 10% --deadline 30m\n  \
deployctl simulate --hosts 5000 --size 10GB --tracker-gone 5m --svg curve.svg")]
pub struct SimulateArgs {
    /// Hosts in all regions together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(HOSTS_MAX)))]
    hosts: u32,
    /// Regions, each with its own store and tracker
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(REGIONS_MAX)))]
    regions: u32,
    /// Bytes that each host fetches: 10GB, 512MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: u64,
    /// A host's link, each way: 1Gbit, 100Mbit
    #[arg(long, value_name = "RATE", default_value = "1Gbit", value_parser = rate)]
    nic: f64,
    /// What a region's store can send
    #[arg(long, value_name = "RATE", default_value = "10Gbit", value_parser = rate)]
    store: f64,
    /// Hosts of one rack; 0: racks are not known
    #[arg(long, value_name = "N", default_value_t = 40)]
    racks: u32,
    /// Zones of a region
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    zones: u32,
    /// Bytes of one piece [default: as a worker cuts them]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    piece: Option<u64>,
    /// Bytes on the wire above a piece's own
    #[arg(long, value_name = "SHARE", default_value = "4.6%", value_parser = share)]
    headers: f64,
    /// There and back between two hosts
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = duration)]
    round_trip: Duration,
    /// How late neighbours hear of a piece
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = duration)]
    news: Duration,
    /// Hosts start within this time
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = duration)]
    spread: Duration,
    /// The deadline, from the first host's start
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = duration)]
    deadline: Duration,
    /// Pace downloads to the deadline, at most at this rate each [default: flat out]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pace: Option<f64>,
    /// Draws every choice
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Also draw the curve to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    faults: FaultArgs,
}

/// What goes wrong.
#[derive(Debug, Args)]
#[command(next_help_heading = "Faults")]
struct FaultArgs {
    /// Hosts that die in the download
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    churn: f64,
    /// Hosts with a tenth of the uplink
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    slow: f64,
    /// Hosts whose disk takes a quarter of the link's rate
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    slow_disk: f64,
    /// Hosts that send wrong bytes
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    poison: f64,
    /// Hosts that start half-way; their time counts from there
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    late: f64,
    /// Hosts whose disk runs full
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    disk_full: f64,
    /// The tracker forgets everything at this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    tracker_restart_at: Option<Duration>,
    /// The tracker is gone for this long, from 10 s on or as in 5m@30s
    #[arg(long, value_name = "TIME[@FROM]", value_parser = span)]
    tracker_gone: Option<Span>,
    /// The store refuses every read for this long
    #[arg(long = "store-503", value_name = "TIME[@FROM]", value_parser = span)]
    store_refuses: Option<Span>,
    /// Zone 1 is cut off from other zones for this long
    #[arg(long, value_name = "TIME[@FROM]", value_parser = span)]
    partition_zone: Option<Span>,
}

/// Runs it.
///
/// # Errors
/// A setting that can't be, or a drawing that can't be written.
pub async fn run(ctx: &Context, args: SimulateArgs) -> Result<ExitCode, Failure> {
    let settings = settings(&args)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // An interrupted command does not wait for its regions.
    let stopped = StopOnDrop(std::sync::Arc::new(AtomicBool::new(false)));
    let stop = stopped.0.clone();
    let outcomes = tokio::task::spawn_blocking(move || every(settings, cores, &stop)).await;
    let outcomes =
        outcomes.map_err(|e| Failure::new(ExitCode::Error, "the simulation broke").because(e))?;
    let report = Report::of(&outcomes);
    if let Some(path) = &args.svg {
        std::fs::write(path, simulate::svg(&report)).map_err(|e| {
            Failure::new(ExitCode::Error, format!("can't write {}", path.display())).because(e)
        })?;
    }
    ctx.out.answer(&document(&args, &report), &simulate::table(&report, args.deadline));
    if ctx.out.is_for_people() {
        ctx.out.story(&simulate::plot(&report));
    }
    Ok(ExitCode::Ok)
}

struct StopOnDrop(std::sync::Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs every region, on all cores.
fn every(settings: Vec<Setting>, cores: usize, stop: &AtomicBool) -> Vec<(Setting, Outcome)> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..cores.min(settings.len()) {
            scope.spawn(|| {
                while let Some(setting) = settings.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = simulator::run(setting, stop);
                    let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    done.push((setting.clone(), outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(setting, _)| setting.seed);
    done
}

fn settings(args: &SimulateArgs) -> Result<Vec<Setting>, Failure> {
    let usage = |why: String| Failure::new(ExitCode::Usage, why);
    if args.regions > args.hosts {
        return Err(usage("there are more regions than hosts".into()));
    }
    let piece = args.piece.unwrap_or_else(|| u64::from(piece_bytes(args.size)));
    let pieces = args.size.div_ceil(piece);
    if pieces > u64::from(PIECES_MAX) || piece > u64::from(u32::MAX) {
        return Err(usage(format!("an artifact has 1 to {PIECES_MAX} pieces, not {pieces}")));
    }
    let wire: Vec<u32> = (0..pieces).map(|at| (args.size - at * piece).min(piece) as u32).collect();
    let wire: std::sync::Arc<[u32]> = wire.into();
    let faults = &args.faults;
    let pace = args.pace.map(|cap| Pace { deadline: micros(args.deadline), cap: cap as u64 });
    let region = |at: u32| Setting {
        hosts: args.hosts / args.regions + u32::from(at < args.hosts % args.regions),
        wire: wire.clone(),
        up: args.nic,
        down: args.nic,
        store: args.store,
        rack: args.racks,
        zones: args.zones,
        overhead: 1.0 + args.headers,
        round_trip: args.round_trip,
        news: args.news,
        spread: args.spread,
        call_cost: simulator::CALL_COST,
        pace,
        faults: Faults {
            churn: faults.churn,
            slow: faults.slow,
            slow_disk: faults.slow_disk,
            poison: faults.poison,
            late: faults.late,
            disk_full: faults.disk_full,
            tracker_restart: faults.tracker_restart_at,
            tracker_gone: faults.tracker_gone,
            store_refuses: faults.store_refuses,
            partition: faults.partition_zone,
        },
        limit: args.deadline.max(Duration::from_secs(3600)) * 4,
        seed: args.seed.wrapping_mul(1 << 20).wrapping_add(u64::from(at)),
    };
    Ok((0..args.regions).map(region).collect())
}

fn document(args: &SimulateArgs, report: &Report) -> serde_json::Value {
    let time = |time: Duration| serde_json::json!({"s": time.as_secs_f64(), "of_bound": report.ratio(time)});
    let step = report.curve.len().div_ceil(200).max(1);
    let curve: Vec<(f64, usize)> = (report.curve.iter().enumerate())
        .filter(|(at, _)| (at + 1) % step == 0 || at + 1 == report.curve.len())
        .map(|(at, time)| (time.as_secs_f64(), at + 1))
        .collect();
    serde_json::json!({
        "hosts": args.hosts, "regions": args.regions, "size": args.size, "seed": args.seed,
        "bound_s": report.bound.as_secs_f64(),
        "p50": time(report.p50), "p99": time(report.p99), "last": time(report.last),
        "end_s": report.end.as_secs_f64(),
        "deadline_s": args.deadline.as_secs_f64(),
        "deadline_met": report.unfinished == 0 && report.end <= args.deadline,
        "complete": report.done, "failed": report.failed, "unfinished": report.unfinished,
        "egress_copies": {"mean": report.egress.0, "most": report.egress.1},
        "cross_rack": report.cross_rack, "duplicate": report.duplicate,
        "tracker_calls": {"per_host": report.calls.0, "most": report.calls.1},
        "refused_pieces": report.refused,
        "pieces": report.pieces, "events": report.events,
        "curve": curve,
    })
}

/// Reads a number and one of `units`.
fn measure(text: &str, units: &[(&str, f64)], shape: &str) -> Result<f64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: Option<f64> = text[..digits].parse().ok();
    let unit = units.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(&text[digits..]));
    number.zip(unit).map(|(number, (_, unit))| number * unit).ok_or_else(|| shape.to_owned())
}

/// Reads `10GB`, `512MiB`.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: &[(&str, f64)] = &[
        ("B", 1.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
    ];
    let shape = "a size is a number and B, KB, MB, GB, KiB, MiB or GiB, from 1B to 16GiB: 10GB";
    let bytes = measure(text, UNITS, shape)?;
    let fits = bytes >= 1.0 && bytes <= SIZE_MAX as f64;
    if fits { Ok(bytes as u64) } else { Err(shape.to_owned()) }
}

/// Reads `1Gbit`, `800Kbit` (a second) as bytes a second.
fn rate(text: &str) -> Result<f64, String> {
    const UNITS: &[(&str, f64)] =
        &[("Kbit", 125.0), ("Mbit", 125e3), ("Gbit", 125e6), ("Tbit", 125e9)];
    let shape =
        "a rate is a number and Kbit, Mbit, Gbit or Tbit a second, from 1Kbit to 100Tbit: 1Gbit";
    let rate = measure(text, UNITS, shape)?;
    if (125.0..=125e11).contains(&rate) { Ok(rate) } else { Err(shape.to_owned()) }
}

/// Reads `5%` as 0.05.
fn share(text: &str) -> Result<f64, String> {
    let shape = "a share is a number of percent from 0% to 100%: 5%";
    let share = measure(text, &[("%", 0.01)], shape)?;
    if share <= 1.0 { Ok(share) } else { Err(shape.to_owned()) }
}

/// Reads `5m` or `5m@30s`.
fn span(text: &str) -> Result<Span, String> {
    let (length, from) = text.split_once('@').unwrap_or((text, "10s"));
    Ok(Span { from: duration(from)?, length: duration(length)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_have_a_unit_and_a_bound() {
        assert_eq!(size("10GB"), Ok(10_000_000_000));
        assert_eq!(size("1.5MiB"), Ok(1_572_864));
        assert_eq!(rate("1Gbit"), Ok(125e6));
        assert_eq!(share("5%"), Ok(0.05));
        let from = Duration::from_secs(30);
        assert_eq!(span("5m@30s"), Ok(Span { from, length: Duration::from_secs(300) }));
        for bad in ["", "10", "GB", "-1GB", "0B", "17GiB", "1.2.3GB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["1", "1Gb", "0Gbit", "101Tbit", "."] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        for bad in ["5", "101%", "%", "-1%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
        assert!(span("5m@").is_err());
    }
}
