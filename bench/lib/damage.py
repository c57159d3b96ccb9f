"""Damages copies and watches them heal: damage.py DIR DELETED TURNED, of the folders that bench/replicate made.

Deletes packs and manifests in region r1, turns bytes in packs of r2. A copy is found when the
coordinator's database no longer calls it complete, and healed when it does again: then its files must be
those of the main store. Prints the table's rows; ends with 1 when one was called complete and was not.
"""

import pathlib
import sqlite3
import sys
import time

folder, deleted, turned = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
PATIENCE = 900


def files(store, kind):
    return {path.name: path for path in (store / kind).rglob("*") if path.is_file()}


def known(region):
    place = f"file:{folder}/c/coordinator.db?mode=ro"
    rows = sqlite3.connect(place, uri=True, timeout=60)
    return {a: s for a, s in rows.execute("SELECT artifact, status FROM replicas WHERE region = ?", (region,))}


def whole(store, name):
    main = {kind: files_of_main[kind].get(name) for kind in files_of_main}
    return all((store / path.relative_to(folder / "main")).is_file()
               and (store / path.relative_to(folder / "main")).read_bytes() == path.read_bytes()
               for path in main.values() if path)


files_of_main = {kind: files(folder / "main", kind) for kind in ("packs", "manifests")}
names = sorted(files_of_main["packs"])
jobs = {"r1": set(), "r2": set()}
for n, name in enumerate(names[:deleted]):
    kind = "manifests" if n % 5 == 0 else "packs"
    (folder / "store" / "r1" / files_of_main[kind][name].relative_to(folder / "main")).unlink()
    jobs["r1"].add(name)
for name in names[deleted:deleted + turned]:
    path = folder / "store" / "r2" / files_of_main["packs"][name].relative_to(folder / "main")
    path.chmod(0o644)
    with path.open("r+b") as pack:
        pack.seek(path.stat().st_size // 2)
        byte = pack.read(1)[0]
        pack.seek(-1, 1)
        pack.write(bytes([byte ^ 0x20]))
    jobs["r2"].add(name)

began = time.time()
found, healed, lies = {}, {}, 0
everything = [(region, name) for region in jobs for name in jobs[region]]
while len(healed) < len(everything) and time.time() - began < PATIENCE:
    for region in jobs:
        states = known(region)
        for name in jobs[region]:
            at = (region, name)
            complete = states.get(name) == "complete"
            if at not in found and not complete:
                found[at] = time.time() - began
            elif at in found and at not in healed and complete:
                healed[at] = time.time() - began
                lies += not whole(folder / "store" / region, name)
            elif at not in found and complete and whole(folder / "store" / region, name):
                # Between two looks it was found and healed.
                found[at] = healed[at] = time.time() - began
    time.sleep(0.2)

print("| what | copies | found, s: half, last | healed, s: half, last | called complete and was not | never healed |")
print("|---|--:|--:|--:|--:|--:|")
for region, what in (("r1", "deleted"), ("r2", "one bit turned")):
    mine = [at for at in everything if at[0] == region]
    times = lambda of: sorted(of[at] for at in mine if at in of) or [float("nan")]
    half = lambda all: f"{all[len(all) // 2]:.1f}, {all[-1]:.1f}"
    never = sum(at not in healed for at in mine)
    print(f"| {what} | {len(mine)} | {half(times(found))} | {half(times(healed))} | {lies if region == 'r1' else ''} | {never} |")
sys.exit(lies > 0 or len(healed) < len(everything))
