//! The headers of a tar file: what an entry is called may stand in its own header, in a GNU long name before it, or in
//! a record of pax.
//!
//! They are read from raw entries, since the reader of the `tar` crate takes names and records of any length into memory.

use std::io::Read;
use tar::{Entry, EntryType};

/// Longer names than the kernel's paths are nobody's.
pub(crate) const LONGEST_NAME: u64 = 4096;
const LONGEST_RECORDS: u64 = 1 << 20;

/// An entry's header, with what stood before it.
pub(crate) struct Head {
    pub name: Vec<u8>,
    pub link: Option<Vec<u8>>,
    pub kind: EntryType,
    /// None, like the time, if it is no number.
    pub mode: Option<u32>,
    pub modified: Option<i64>,
    /// The one in the header; `recorded` is pax's, which counts more.
    pub size: u64,
    pub recorded: Option<u64>,
    pub sparse: bool,
}

/// What stood before the next entry.
#[derive(Default)]
pub(crate) struct Before {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Vec<u8>,
}

impl Before {
    /// The head of an entry; none, if all that the entry does is say something of the next one.
    pub(crate) fn head<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<Option<Head>, String> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => self.name = Some(until_nul(whole(entry, LONGEST_NAME)?)),
            EntryType::GNULongLink => self.link = Some(until_nul(whole(entry, LONGEST_NAME)?)),
            EntryType::XHeader => self.records = whole(entry, LONGEST_RECORDS)?,
            EntryType::XGlobalHeader => drop(whole(entry, LONGEST_RECORDS)?),
            _ => return self.of_file(entry).map(Some),
        }
        Ok(None)
    }

    fn of_file<R: Read>(&mut self, entry: &Entry<'_, R>) -> Result<Head, String> {
        let header = entry.header();
        let kind = header.entry_type();
        let mut head = Head {
            name: self.name.take().unwrap_or_else(|| entry.path_bytes().into_owned()),
            link: self
                .link
                .take()
                .or_else(|| entry.link_name_bytes().map(|l| l.into_owned())),
            kind,
            mode: header.mode().ok(),
            modified: header.mtime().ok().map(|t| t.try_into().unwrap_or_default()),
            size: entry.size(),
            recorded: None,
            sparse: kind == EntryType::GNUSparse,
        };
        let records = std::mem::take(&mut self.records);
        for record in tar::PaxExtensions::new(&records) {
            let record = record.map_err(|e| e.to_string())?;
            match record.key().unwrap_or_default() {
                "path" => head.name = short(record.value_bytes())?,
                "linkpath" => head.link = Some(short(record.value_bytes())?),
                "mtime" => {
                    let whole = record.value().unwrap_or_default().split('.').next().unwrap_or_default();
                    head.modified = whole.parse().ok().or(head.modified);
                }
                "size" => {
                    let size = record.value().ok().and_then(|v| v.parse().ok());
                    head.recorded = Some(size.ok_or("a file's size is no number")?);
                }
                key if key.starts_with("GNU.sparse") => head.sparse = true,
                _ => {}
            }
        }
        Ok(head)
    }
}

fn whole<R: Read>(entry: &mut Entry<'_, R>, most: u64) -> Result<Vec<u8>, String> {
    let size = entry.size();
    if size > most {
        return Err(format!("a header of {size} bytes, more than {most}"));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(|e| e.to_string())?;
    match text.len() as u64 == size {
        true => Ok(text),
        false => Err("it ends within a header".into()),
    }
}

fn short(name: &[u8]) -> Result<Vec<u8>, String> {
    match name.len() as u64 {
        length if length > LONGEST_NAME => Err(format!("a name of {length} bytes, more than {LONGEST_NAME}")),
        _ => Ok(name.to_vec()),
    }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|b| *b == 0) {
        text.truncate(end);
    }
    text
}
