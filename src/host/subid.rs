//! Reads `/etc/subuid`, `/etc/subgid` and `/etc/passwd`, given as text.
//!
//! Reads no file and asks no name service: the static binary must not load the host's NSS modules,
//! and the tests bring their own text. A line that cannot be read is kept and told, never skipped
//! in silence: `newuidmap` skips it in silence, which is what users stumble over.

/// `COUNT` ids from `START` on, which `owner` may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub owner: String,
    pub start: u32,
    pub count: u32,
}

impl Range {
    /// Included. Cannot overflow: [`parse`] refuses ranges that would.
    pub fn last(&self) -> u32 {
        self.start + (self.count - 1)
    }

    /// What of it is before another, and what is behind that.
    fn without(&self, other: &Range) -> impl Iterator<Item = Range> + use<> {
        let part = |from: u32, to: u32| Range {
            owner: self.owner.clone(),
            start: from,
            count: to - from + 1,
        };
        let (start, last) = (self.start, self.last());
        let parts = match other.start <= last && other.last() >= start {
            false => [Some(self.clone()), None],
            true => [
                (other.start > start).then(|| part(start, other.start - 1)),
                (other.last() < last).then(|| part(other.last() + 1, last)),
            ],
        };
        parts.into_iter().flatten()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubIds {
    pub ranges: Vec<Range>,
    /// Number of the line (from 1), and what is wrong with it.
    pub bad: Vec<(usize, &'static str)>,
}

pub fn parse(text: &str) -> SubIds {
    let mut parsed = SubIds::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line) {
            Ok(range) => parsed.ranges.push(range),
            Err(why) => parsed.bad.push((index + 1, why)),
        }
    }
    parsed
}

fn parse_line(line: &str) -> Result<Range, &'static str> {
    let fields: Vec<&str> = line.split(':').collect();
    let [owner, start, count] = fields[..] else {
        return Err("not of the form NAME:START:COUNT");
    };
    if owner.is_empty() {
        return Err("no name before the first colon");
    }
    let start: u32 = start.parse().map_err(|_| "the start is not an id")?;
    let count: u32 = count.parse().map_err(|_| "the count is not a number of ids")?;
    if count == 0 {
        return Err("the count is 0");
    }
    // 4294967295 is not an id but the kernel's "no change".
    match start.checked_add(count - 1) {
        Some(last) if last < u32::MAX => Ok(Range {
            owner: owner.to_owned(),
            start,
            count,
        }),
        _ => Err("the range goes beyond the last id, 4294967294"),
    }
}

impl SubIds {
    /// The ranges of one user, who may stand in the file by uid and by each name that has it: so newuidmap(1) takes them. Ids
    /// that stand there twice are there once, for a map that names them twice is refused. Each range lies in one line, and
    /// they come in the order of the file.
    pub fn of(&self, names: &[&str], uid: u32) -> Vec<Range> {
        let uid = uid.to_string();
        let mut own: Vec<Range> = Vec::new();
        for range in self
            .ranges
            .iter()
            .filter(|r| r.owner == uid || names.contains(&r.owner.as_str()))
        {
            let mut left = vec![range.clone()];
            for known in &own {
                left = left.iter().flat_map(|range| range.without(known)).collect();
            }
            own.extend(left);
        }
        own
    }

    /// Pairs of ranges that share ids although they belong to different users.
    pub fn overlaps(&self, accounts: &Accounts) -> Vec<(&Range, &Range)> {
        let mut sorted: Vec<&Range> = self.ranges.iter().collect();
        sorted.sort_by_key(|r| (r.start, r.last()));
        let mut found = Vec::new();
        for (index, first) in sorted.iter().enumerate() {
            for second in &sorted[index + 1..] {
                // A file where everything overlaps everything must not cost its square.
                if second.start > first.last() || found.len() >= 16 {
                    break;
                }
                if !accounts.same_user(&first.owner, &second.owner) {
                    found.push((*first, *second));
                }
            }
        }
        found
    }
}

/// Where `count` ids in a row are free in all files, from 100000 on, as `useradd` gives them out.
pub fn free_range(files: &[&SubIds], count: u32) -> Option<(u32, u32)> {
    let mut taken: Vec<&Range> = files.iter().flat_map(|ids| &ids.ranges).collect();
    taken.sort_by_key(|range| range.start);
    let mut start = 100_000u32;
    for range in taken {
        let last = start.checked_add(count - 1)?;
        if range.start <= last && range.last() >= start {
            start = range.last().checked_add(1)?;
        }
    }
    let last = start.checked_add(count - 1).filter(|last| *last < u32::MAX)?;
    Some((start, last))
}

/// The host's accounts: name and uid, in the order of the file. Of two with one uid, the first is the one that the host shows.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    all: Vec<(String, u32)>,
}

impl Accounts {
    pub fn parse(passwd: &str) -> Self {
        let entry = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let uid = fields.nth(1)?.parse().ok()?;
            Some((name.to_owned(), uid))
        };
        Accounts {
            all: passwd.lines().filter_map(entry).collect(),
        }
    }

    /// All names of one uid.
    pub fn names_of(&self, uid: u32) -> Vec<&str> {
        let of = self.all.iter().filter(|(_, known)| *known == uid);
        of.map(|(name, _)| name.as_str()).collect()
    }

    /// Accounts whose uid lies in a range.
    pub fn within(&self, range: &Range) -> Vec<&str> {
        let inside = |uid: &u32| (range.start..=range.last()).contains(uid);
        let mut names: Vec<&str> = self
            .all
            .iter()
            .filter(|(_, uid)| inside(uid))
            .map(|(n, _)| n.as_str())
            .collect();
        names.sort_unstable();
        names
    }

    fn same_user(&self, one: &str, other: &str) -> bool {
        let known = |owner: &str| self.all.iter().find(|(name, _)| name == owner).map(|(_, uid)| *uid);
        let uid = |owner: &str| known(owner).or_else(|| owner.parse().ok());
        one == other || (uid(one).is_some() && uid(one) == uid(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(owner: &str, start: u32, count: u32) -> Range {
        Range {
            owner: owner.into(),
            start,
            count,
        }
    }

    #[test]
    fn reads_names_uids_comments_and_blanks() {
        let ids = parse("# who may\n\nann:100000:65536\n 1001:200000:10 \nann:300000:5\n");
        assert_eq!(ids.bad, []);
        assert_eq!(
            ids.of(&["ann"], 1000),
            [range("ann", 100000, 65536), range("ann", 300000, 5)]
        );
        assert_eq!(ids.of(&["bob"], 1001), [range("1001", 200000, 10)]);
        assert!(ids.of(&["eve"], 7).is_empty());
    }

    #[test]
    fn two_names_of_one_user_have_all_that_either_has() {
        let accounts = Accounts::parse("root:x:0:0\nann:x:1000:1000\nanna:x:1000:1000\nbob:x:1001:1001\n");
        let names = accounts.names_of(1000);
        assert_eq!(names, ["ann", "anna"]);
        for text in ["anna:100000:10\n", "ann:100000:10\n", "1000:100000:10\n"] {
            let own = parse(text).of(&names, 1000);
            assert_eq!(
                own.iter().map(|r| (r.start, r.count)).collect::<Vec<_>>(),
                [(100000, 10)]
            );
        }
    }

    #[test]
    fn what_stands_there_twice_is_there_once() {
        let parts = |text: &str| -> Vec<(u32, u32)> {
            let own = parse(text).of(&["ann"], 1000);
            own.iter().map(|r| (r.start, r.count)).collect()
        };
        assert_eq!(parts("ann:100:50\n1000:100:50\n"), [(100, 50)]);
        assert_eq!(parts("ann:100:50\nann:100:50\nann:300:1"), [(100, 50), (300, 1)]);
        assert_eq!(parts("ann:120:10\n1000:100:50\n"), [(120, 10), (100, 20), (130, 20)]);
        assert_eq!(
            parts("ann:100:50\nann:140:50\nann:90:200"),
            [(100, 50), (150, 40), (90, 10), (190, 100)]
        );
    }

    #[test]
    fn tells_every_bad_line_by_number() {
        let text = "ann\nann:1\nann:1:2:3\n:1:2\nann:x:2\nann:1:-2\nann:1:0\nann:1:99999999999\n\
                    ann:4294967295:1\nann:4294967290:6\nann:4294967290:5";
        let ids = parse(text);
        let lines: Vec<usize> = ids.bad.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(ids.ranges, [range("ann", 4294967290, 5)]);
        assert_eq!(ids.ranges[0].last(), 4294967294);
    }

    #[test]
    fn overlaps_are_between_different_users_only() {
        let accounts = Accounts::parse("ann:x:1000:1000::/:/bin/sh\nbroken\nbob:x:1001:1001::/:\n");
        let ids = parse("ann:100:100\n1000:150:100\nbob:249:10\nbob:259:1\neve:260:1");
        let pairs: Vec<_> = ids
            .overlaps(&accounts)
            .iter()
            .map(|(a, b)| (a.owner.clone(), b.owner.clone()))
            .collect();
        assert_eq!(pairs, [("1000".to_owned(), "bob".to_owned())]);
        // A short range inside a long one that began earlier.
        let ids = parse("ann:0:1000\nann:10:5\nbob:500:1");
        assert_eq!(ids.overlaps(&accounts).len(), 1);
    }

    #[test]
    fn a_free_range_is_free_in_both_files() {
        let uids = parse("ann:100000:65536\nbob:165536:65536");
        let gids = parse("ann:290000:10\nbob:1:5");
        assert_eq!(free_range(&[&uids, &gids], 65536), Some((290010, 355545)));
        assert_eq!(free_range(&[&uids], 65536), Some((231072, 296607)));
        assert_eq!(free_range(&[], 65536), Some((100000, 165535)));
        assert_eq!(free_range(&[&parse("ann:5:4294967280")], 65536), None);
    }

    #[test]
    fn a_file_full_of_overlaps_is_cut_short() {
        let text: String = (0..20000).map(|n| format!("u{n}:1:4000000000\n")).collect();
        assert_eq!(parse(&text).overlaps(&Accounts::default()).len(), 16);
    }

    #[test]
    fn accounts_in_a_range() {
        let accounts = Accounts::parse("root:x:0:0\nann:x:1000:1000\n");
        assert_eq!(accounts.within(&range("bob", 900, 200)), ["ann"]);
        assert_eq!(accounts.names_of(1000), ["ann"]);
        assert!(accounts.names_of(5).is_empty());
    }
}
