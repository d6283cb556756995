//! Variables that `exec` and `run` are given with -e: `KEY=VALUE`, or `KEY`, whose value is this command's own.

use super::Failure;

/// Each with its value. The last one of a name counts. A name alone keeps a value out of this command's arguments, which every user of
/// the host can read.
pub(super) fn variables(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let mut out = Vec::with_capacity(given.len());
    for variable in given {
        let (key, value) = match variable.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (variable.as_str(), own(variable)?),
        };
        if key.is_empty() {
            let message = format!("-e {variable}: write KEY=VALUE, or KEY alone for the value that it has here");
            return Err(Failure::new(2, message));
        }
        match value {
            Some(value) => {
                out.retain(|(known, _)| known != key);
                out.push((key.to_owned(), value));
            }
            None => errln!("note: -e {key}: the variable is not set here, so it is left out"),
        }
    }
    Ok(out)
}

fn own(key: &str) -> Result<Option<String>, Failure> {
    // A name that no environment can have is in none.
    if key.is_empty() || key.contains('\0') {
        return Ok(None);
    }
    let value = std::env::var_os(key).map(std::ffi::OsString::into_string).transpose();
    value.map_err(|_| {
        Failure::new(
            2,
            format!("-e {key}: its value here is not UTF-8, and cannot be passed on"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_values_and_without() {
        let of =
            |given: &[&str]| variables(&given.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>()).map_err(|f| f.code);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(of(&["A=1", "B=", "A=2=3"]), Ok(vec![pair("B", ""), pair("A", "2=3")]));
        let path = std::env::var("PATH").unwrap();
        assert_eq!(
            of(&["PATH", "NO_VARIABLE_HAS_THIS_NAME"]),
            Ok(vec![pair("PATH", &path)])
        );
        assert_eq!(of(&["=x"]), Err(2));
        assert_eq!(of(&[""]), Err(2));
    }
}
