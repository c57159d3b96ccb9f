//! The executables of a group: what is written about them, and the fields of
//! copied bytes that are guessed rather than compared.

use super::blob::Side;
use super::coder::{Coder, Number};
use super::elf::{self, Elf};
use super::fields::{self, Field};
use super::image::{Space, SpaceModel, Zone};
use super::predict::Here;

/// Executables of one group at most.
pub(super) const SPACES_MAX: usize = 4096;

/// The spaces of a group.
#[derive(Default)]
pub(super) struct Executables {
    spaces: Vec<Space>,
    /// The space and place there of each zone, by its start in the old blob.
    zones: Vec<(u64, u32, u32)>,
}

/// A field of copied bytes.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub(super) field: Field,
    zone: u32,
}

impl Executables {
    pub(super) fn of(spaces: Vec<Space>) -> Self {
        let mut zones = Vec::new();
        for (index, space) in spaces.iter().enumerate() {
            let places = space.zones.iter().enumerate();
            zones.extend(places.map(|(place, zone)| (zone.at, index as u32, place as u32)));
        }
        zones.sort_unstable();
        Self { spaces, zones }
    }

    fn zone(&self, index: usize) -> (&Space, &Zone) {
        let (_, space, place) = self.zones[index];
        let space = &self.spaces[space as usize];
        (space, &space.zones[place as usize])
    }

    /// The fields of old bytes that are copied from `old` to `new`.
    pub(super) fn spots(&self, old: u64, new: u64, bytes: &[u8], spots: &mut Vec<Spot>) {
        spots.clear();
        let end = old.saturating_add(bytes.len() as u64);
        let mut index = self.zones.partition_point(|(at, ..)| *at <= old).saturating_sub(1);
        let mut covered = old;
        while self.zones.get(index).is_some_and(|(at, ..)| *at < end) {
            let (space, zone) = self.zone(index);
            // A bad patch may have zones that overlap: each byte counts once.
            let (from, to) = (zone.at.max(covered), zone.at.saturating_add(zone.len).min(end));
            if from < to {
                covered = to;
                let skip = (from - old) as usize;
                let part = &bytes[skip..(to - old) as usize];
                let moved = space.new.address(new.wrapping_add(skip as u64));
                if let (Some(here), Some(_)) = (space.old.address(from), moved) {
                    let add = &mut |field: Field| {
                        let field = Field { at: field.at + skip, ..field };
                        spots.push(Spot { field, zone: index as u32 });
                    };
                    let skipped = from - zone.at;
                    fields::find(zone.kind, part, here, &zone.bases[0], skipped, &space.old, add);
                }
            }
            index += 1;
        }
    }

    /// A spot of bytes that are copied to `new`.
    pub(super) fn here(&self, spot: Spot, new: u64) -> Here<'_> {
        let (space, zone) = self.zone(spot.zone as usize);
        let new = space.new.address(new.wrapping_add(spot.field.at as u64)).unwrap_or(0);
        Here { space, zone, field: spot.field, new }
    }
}

/// Codes the spaces of a group. `None`: what was read is over a bound.
pub(super) fn code(coder: &mut impl Coder, spaces: &[Space]) -> Option<Vec<Space>> {
    let count = Number::default().code(coder, spaces.len() as u64) as usize;
    if count > SPACES_MAX {
        return None;
    }
    let (mut model, none) = (SpaceModel::default(), Space::default());
    (0..count).map(|index| model.code(coder, spaces.get(index).unwrap_or(&none))).collect()
}

/// The ELF files of a side, with the places of their files.
pub(super) fn on(side: Side<'_>) -> Vec<(&str, Elf)> {
    let parse = |file: &super::blob::FileSpan| elf::parse(side.blob, file.start, file.size);
    let mut elves: Vec<(&str, Elf)> =
        side.files.iter().filter_map(|file| Some((file.path.as_str(), parse(file)?))).collect();
    elves.sort_by_key(|(_, elf)| elf.start);
    elves
}

/// Executables of both sides, paired by path, or because there is just one of them.
pub(super) fn paired(old: &[(&str, Elf)], new: &[(&str, Elf)]) -> Vec<Space> {
    if let ([(_, old)], [(_, new)]) = (old, new) {
        return vec![pair(old, new)];
    }
    let by_path: std::collections::HashMap<&str, &Elf> =
        old.iter().map(|(path, elf)| (*path, elf)).collect();
    let both = new.iter().filter_map(|(path, new)| Some(pair(by_path.get(path)?, new)));
    both.take(SPACES_MAX).collect()
}

fn pair(old: &Elf, new: &Elf) -> Space {
    let zone = |section: &elf::Section| {
        let same = new.sections.iter().find(|other| other.name == section.name);
        let bases = [section.bases, same.map_or(section.bases, |same| same.bases)];
        Zone { at: section.at, len: section.len, kind: section.kind, bases }
    };
    let zones = old.sections.iter().map(zone).collect();
    Space { old: old.image.clone(), new: new.image.clone(), zones }
}
