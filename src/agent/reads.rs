//! Reads of the regional store: the pieces of a lease, or one piece as its custodian.
//! Decides nothing: the tracker grants, the region admits.

use std::ops::Range;
use std::time::Duration;

use crate::agent::buffers::Buffer;
use crate::agent::direct;
use crate::agent::download::Context;
use crate::agent::transfer::{Broken, Opened, StoreRead};
use crate::rules::swarm::{Event, Leave, Source};

/// Wait after the store failed.
const REGION_RETRY: Duration = Duration::from_millis(1000);

/// Reads the pieces of a lease that are still missing, one after the other.
pub(super) async fn read_store(context: Context, leave: Leave) {
    let pieces = context.assembly.pack.manifest.pieces.len() as u32;
    let end = leave.first.saturating_add(leave.count).min(pieces);
    let done = context.assembly.pack.have.borrow().done.clone();
    let missing: Vec<u32> = (leave.first..end).filter(|piece| !done.contains(*piece)).collect();
    let mut whole = true;
    for run in missing.chunk_by(|a, b| a + 1 == *b) {
        if let Err(broken) = read_run(&context, Some(leave.id), run).await {
            context.trouble("regional store", &broken).await;
            whole = false;
            tokio::time::sleep(REGION_RETRY).await;
            break;
        }
    }
    context.let_go(leave.id, !whole || missing.is_empty());
    context.happened(Event::LeaseEnded(leave.id)).await;
}

/// Reads one piece without a lease: no tracker answers and no peer has it.
pub(super) async fn read_as_custodian(context: Context, piece: u32) {
    if let Err(broken) = read_run(&context, None, &[piece]).await {
        context.trouble("regional store", &broken).await;
        tokio::time::sleep(REGION_RETRY).await;
    }
    context.happened(Event::CustodyEnded(piece)).await;
}

/// Reads neighbouring pieces under a lease, or as custodian; of the first only what is
/// not here from before.
async fn read_run(context: &Context, lease: Option<u64>, run: &[u32]) -> Result<(), Broken> {
    let pack = &context.assembly.pack;
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
    let mut next = Some(context.begin(*first).await);
    let here = next.as_ref().map_or(0, |(_, part)| part.resumed());
    let range = pack.offsets[*first as usize] + here as u64..pack.offsets[*last as usize + 1];
    let mut read = open(context, lease, range).await?;
    for &piece in run {
        let (mut wire, mut part) = match next.take() {
            Some(first) => first,
            None => {
                let (wire, mut part) = context.begin(piece).await;
                part.restart();
                (wire, part)
            }
        };
        let resumed = part.resumed();
        let came = |front: &[u8]| {
            match lease {
                Some(lease) => context.moved(lease),
                None => context.heard.now(),
            }
            part.came(front);
        };
        let took = read.take((&mut wire, resumed), &context.shared.cap, came).await;
        took.inspect_err(|broken| {
            if read.is_direct() {
                context.shared.direct.failed(broken);
            }
        })?;
        keep(context, lease, (piece, resumed == 0), wire).await?;
        part.end();
    }
    read.end(&context.shared.connections);
    Ok(())
}

/// Begins a read at the region, or where it leads to; when that fails, at the region.
async fn open(
    context: &Context,
    lease: Option<u64>,
    range: Range<u64>,
) -> Result<StoreRead, Broken> {
    let (client, shared) = (context.link.client(), &context.shared);
    let artifact = context.assembly.pack.artifact;
    let ask = async |wish: Option<&str>| {
        let way = (&client, &*shared.connections);
        let opened = StoreRead::open(way, artifact, (lease, wish), range.clone()).await;
        opened.inspect_err(|e| {
            if matches!(e, Broken::Unreachable(_)) {
                context.link.failed(&client);
            }
        })
    };
    let url = match ask(lease.and_then(|_| shared.direct.wish())).await? {
        Opened::Here(read) => return Ok(read),
        Opened::There(url) => url,
    };
    let safe = client.base().starts_with("https://");
    let broken = match direct::open(&url, safe, &range).await {
        Ok(reply) => return Ok(StoreRead::there(reply)),
        Err(broken) => broken,
    };
    match ask(shared.direct.failed(&broken)).await? {
        Opened::Here(read) => Ok(read),
        Opened::There(_) => Err(broken),
    }
}

/// Verifies a piece of the store's. One that is not `whole` from there is not its fault.
async fn keep(
    context: &Context,
    lease: Option<u64>,
    (piece, whole): (u32, bool),
    wire: Buffer,
) -> Result<(), Broken> {
    let source = lease.map_or(Source::Custody, Source::Store);
    match context.put(piece, wire).await {
        Some(true) => context.happened(Event::PieceOk(piece, source)).await,
        Some(false) => {
            context.happened(Event::PieceBad(piece, source)).await;
            if whole {
                context.trouble("regional store", format!("piece {piece} has wrong bytes")).await;
                context.membership.bad(piece, None).await;
            }
        }
        None => return Err(Broken::Cut("disk".into())),
    }
    Ok(())
}
