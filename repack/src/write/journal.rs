//! The journal: which pieces of an unfinished pack are known to be on the disk. A record is appended only after the data it claims is
//! durable, each record carries the hash of all before it, and claims are re-hashed before they are believed.
//!
//! Header: magic (8) | plan id (32) | BLAKE3 of both (32). Record: number of pieces done so far (8) | zero (8) | BLAKE3 of the hashes of the group's
//! pieces (32) | BLAKE3 of the chain so far and the fields before (32).

use super::media::Media;
use std::fs::File;
use std::io;
use std::path::Path;

const MAGIC: &[u8; 8] = b"FBYJRNL1";
const HEADER_BYTES: usize = 72;
const RECORD_BYTES: usize = 80;

/// A group of pieces that the journal says is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// End of the group: pieces done so far.
    pub pieces: u64,
    /// Hash over the hashes of the group's pieces.
    pub group: [u8; 32],
}

/// An open journal.
pub struct Journal {
    file: File,
    end: u64,
    chain: [u8; 32],
}

/// What a journal found on disk says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Plan it belongs to; `None` if there is no readable header.
    pub plan: Option<[u8; 32]>,
    /// Longest valid chain of claims.
    pub claims: Vec<Claim>,
}

/// Reads a journal; anything broken ends it early, nothing is an error but the operating system's.
pub fn read(path: &Path) -> io::Result<Found> {
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        other => other?,
    };
    let Some((header, records)) = bytes.split_at_checked(HEADER_BYTES) else { return Ok(Found::default()) };
    if !header.starts_with(MAGIC) || blake3::hash(&header[..40]).as_bytes() != &header[40..] {
        return Ok(Found::default());
    }
    let mut found = Found { plan: header[8..40].try_into().ok(), claims: Vec::new() };
    let mut chain = *blake3::hash(&header[..40]).as_bytes();
    let mut last = 0;
    for r in records.chunks_exact(RECORD_BYTES) {
        let (mut pieces, mut group) = ([0; 8], [0; 32]);
        pieces.copy_from_slice(&r[..8]);
        group.copy_from_slice(&r[16..48]);
        let claim = Claim { pieces: u64::from_le_bytes(pieces), group };
        let next = record(&chain, &claim);
        if next != r || claim.pieces <= last {
            break;
        }
        chain.copy_from_slice(&r[48..]);
        last = claim.pieces;
        found.claims.push(claim);
    }
    Ok(found)
}

fn record(chain: &[u8; 32], claim: &Claim) -> [u8; RECORD_BYTES] {
    let mut r = [0; RECORD_BYTES];
    r[..8].copy_from_slice(&claim.pieces.to_le_bytes());
    r[16..48].copy_from_slice(&claim.group);
    let mut h = blake3::Hasher::new();
    h.update(chain).update(&r[..48]);
    r[48..].copy_from_slice(h.finalize().as_bytes());
    r
}

/// Hash of a group from the hashes of its pieces.
pub fn group_hash<'a>(pieces: impl IntoIterator<Item = &'a [u8; 32]>) -> [u8; 32] {
    let mut h = blake3::Hasher::new();
    for p in pieces {
        h.update(p);
    }
    *h.finalize().as_bytes()
}

impl Journal {
    /// Starts a journal for a plan, or goes on with one that holds `claims` (whatever followed them is overwritten).
    pub fn start(path: &Path, plan: &[u8; 32], claims: &[Claim], media: &dyn Media) -> io::Result<Journal> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..40].copy_from_slice(plan);
        let chain = *blake3::hash(&header[..40]).as_bytes();
        header[40..].copy_from_slice(&chain);
        let file = File::options().write(true).create(true).truncate(claims.is_empty()).open(path)?;
        let mut journal = Journal { file, end: HEADER_BYTES as u64, chain };
        if claims.is_empty() {
            media.write_at(&journal.file, &header, 0)?;
            media.sync(&journal.file)?;
        }
        for claim in claims {
            journal.advance(&record(&journal.chain, claim));
        }
        journal.file.set_len(journal.end)?;
        Ok(journal)
    }

    fn advance(&mut self, r: &[u8; RECORD_BYTES]) {
        self.chain.copy_from_slice(&r[48..]);
        self.end += RECORD_BYTES as u64;
    }

    /// Appends a claim and makes it durable. The caller has synced the data.
    pub fn append(&mut self, claim: &Claim, media: &dyn Media) -> io::Result<()> {
        let r = record(&self.chain, claim);
        media.write_at(&self.file, &r, self.end)?;
        media.sync(&self.file)?;
        self.advance(&r);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::media::System;
    use super::*;

    fn claim(pieces: u64) -> Claim {
        Claim { pieces, group: [pieces as u8; 32] }
    }

    #[test]
    fn any_damage_ends_the_chain_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        assert_eq!(read(&path).unwrap(), Found::default());
        let mut j = Journal::start(&path, &[9; 32], &[], &System).unwrap();
        for n in [3, 5, 9] {
            j.append(&claim(n), &System).unwrap();
        }
        let good = std::fs::read(&path).unwrap();
        assert_eq!(read(&path).unwrap(), Found { plan: Some([9; 32]), claims: vec![claim(3), claim(5), claim(9)] });
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let found = read(&path).unwrap();
            let whole = at.checked_sub(HEADER_BYTES).map(|a| a / RECORD_BYTES);
            assert_eq!(found.plan.is_some(), whole.is_some(), "byte {at}");
            assert_eq!(found.claims.len(), whole.unwrap_or(0), "byte {at}");
        }
        for len in 0..good.len() {
            std::fs::write(&path, &good[..len]).unwrap();
            assert_eq!(read(&path).unwrap().claims.len(), len.saturating_sub(HEADER_BYTES) / RECORD_BYTES);
        }
    }

    #[test]
    fn a_continued_journal_equals_an_uninterrupted_one() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let mut j = Journal::start(&a, &[1; 32], &[], &System).unwrap();
        (1..=4).for_each(|n| j.append(&claim(n), &System).unwrap());
        let mut j = Journal::start(&b, &[1; 32], &[], &System).unwrap();
        (1..=3).for_each(|n| j.append(&claim(n), &System).unwrap());
        let mut j = Journal::start(&b, &[1; 32], &[claim(1), claim(2)], &System).unwrap();
        (3..=4).for_each(|n| j.append(&claim(n), &System).unwrap());
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }
}
