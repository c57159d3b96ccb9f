//! A small x86-64 executable as a linker would lay it out: functions that call
//! each other, and a table of pointers to them.

const TEXT: u64 = 0x1000;
/// Where the text is in memory: elsewhere than in the file, as is usual.
const TEXT_ADDRESS: u64 = 0x40_2000;

/// An ELF file with a function of each size (at least 20 bytes). What a function
/// does and calls depends on `seed` and its index alone, not on where it stands.
pub(crate) fn linked(sizes: &[usize], seed: u64) -> Vec<u8> {
    let mut starts = Vec::new();
    let mut end = 0;
    for size in sizes {
        starts.push(end as u64);
        end += size;
    }
    let mut text = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        let start = text.len();
        let body = super::noise(seed + index as u64, *size);
        // Bytes that look like no call, jump or operand.
        text.extend(body.iter().map(|byte| byte & 0x38 | 0x40));
        for (call, at) in (4..size - 9).step_by(12).enumerate() {
            let to = starts[(index * 7919 + call * 104_729) % starts.len()];
            let from = (start + at + 5) as u64;
            text[start + at] = 0xe8;
            let distance = to.wrapping_sub(from) as u32;
            text[start + at + 1..start + at + 5].copy_from_slice(&distance.to_le_bytes());
        }
    }
    let data: Vec<u8> =
        starts.iter().rev().flat_map(|start| (TEXT_ADDRESS + start).to_le_bytes()).collect();
    file(&text, &data)
}

fn file(text: &[u8], data: &[u8]) -> Vec<u8> {
    let data_at = (TEXT + text.len() as u64).next_multiple_of(4096);
    let data_address = data_at + (TEXT_ADDRESS - TEXT) + 0x1000;
    let names = b"\0.text\0.data\0.shstrtab\0";
    let names_at = data_at + data.len() as u64;
    let sections_at = (names_at + names.len() as u64).next_multiple_of(8);
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    half(&mut out, &[3, 62]);
    word(&mut out, 1);
    long(&mut out, &[TEXT_ADDRESS, 64, sections_at]);
    word(&mut out, 0);
    half(&mut out, &[64, 56, 2, 64, 4, 3]);
    for (flags, at, address, len) in
        [(5, TEXT, TEXT_ADDRESS, text.len()), (6, data_at, data_address, data.len())]
    {
        word(&mut out, 1);
        word(&mut out, flags);
        long(&mut out, &[at, address, address, len as u64, len as u64, 4096]);
    }
    out.resize(TEXT as usize, 0);
    out.extend_from_slice(text);
    out.resize(data_at as usize, 0);
    out.extend_from_slice(data);
    out.extend_from_slice(names);
    out.resize(sections_at as usize, 0);
    let parts = [
        (0, 0, 0, 0, 0, 0),
        (1, 1, 6, TEXT_ADDRESS, TEXT, text.len()),
        (7, 1, 3, data_address, data_at, data.len()),
        (13, 3, 0, 0, names_at, names.len()),
    ];
    for (name, kind, flags, address, at, len) in parts {
        word(&mut out, name);
        word(&mut out, kind);
        long(&mut out, &[flags, address, at, len as u64, 0, 8, 0]);
    }
    out
}

fn half(out: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn word(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn long(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}
