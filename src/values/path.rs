//! Paths as services see them: their one normal form, and the order in which they nest.
//! Text only; no file system is asked.

use crate::cause::Reason;

/// Checks and normalises the path of a resource. The error completes the sentence "path … ".
pub fn normal(text: &str) -> Result<String, Reason> {
    let out = absolute(text)?;
    for reserved in ["/proc", "/dev", "/sys", "/tmp", "/var/tmp", "/run/pysecure"] {
        if out == reserved || is_below(&out, reserved) {
            return Err(
                Reason::new(format!("meets {reserved}, which PySecure makes anew for each service"))
                    .remedy("choose another path"),
            );
        }
    }
    Ok(out)
}

/// Checks and normalises a path that may lie anywhere.
pub fn absolute(text: &str) -> Result<String, Reason> {
    if !text.starts_with('/') {
        let whole = format!(
            "write it as services see it, such as \"/{}\"",
            text.trim_start_matches("./")
        );
        return Err(Reason::new("is relative").remedy(whole));
    }
    if let Some(bad) = text.chars().find(|c| c.is_control()) {
        return Err(Reason::new(format!("holds the control character {bad:?}")).remedy("take it out"));
    }
    let mut out = String::with_capacity(text.len());
    for part in text.split('/').filter(|p| !p.is_empty()) {
        match part {
            "." | ".." => {
                return Err(Reason::new(format!("holds `{part}`")).remedy("write the path it comes to"));
            }
            _ if part.len() > 255 => return Err(Reason::new("has a component of over 255 bytes").remedy("shorten it")),
            _ => {
                out.push('/');
                out.push_str(part);
            }
        }
    }
    if out.len() > 4000 {
        return Err(Reason::new("is longer than the kernel's limit of 4,096 bytes").remedy("shorten it"));
    }
    if out.is_empty() {
        return Err(Reason::new("is the root itself").remedy("name a file or directory below it"));
    }
    Ok(out)
}

/// The directory that a normal path lies in.
pub fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

/// The last component of a normal path.
pub fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Does `path` lie below `ancestor`, at any depth?
pub fn is_below(path: &str, ancestor: &str) -> bool {
    ancestor == "/" && path.len() > 1
        || path.len() > ancestor.len() && path.starts_with(ancestor) && path.as_bytes()[ancestor.len()] == b'/'
}

/// Sorts every path right behind its ancestors and before their later siblings.
pub fn nesting_order(a: &str, b: &str) -> std::cmp::Ordering {
    let key = |byte| if byte == b'/' { 0 } else { byte };
    a.bytes().map(key).cmp(b.bytes().map(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_form() {
        assert_eq!(normal("/a//b/").unwrap(), "/a/b");
        for bad in [
            "",
            "a/b",
            "./a",
            "/",
            "//",
            "/a/../b",
            "/a/./b",
            "/proc/1",
            "/dev",
            "/tmp/x",
            "/a\nb",
            "/run/pysecure/x",
        ] {
            assert!(normal(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(normal("/running").unwrap(), "/running");
    }

    #[test]
    fn below_is_by_component() {
        assert!(is_below("/a/b", "/a"));
        assert!(is_below("/a", "/"));
        assert!(!is_below("/ab", "/a"));
        assert!(!is_below("/a", "/a"));
    }
}
