//! Which route a request is for: paths that can be read in one way only, and patterns of them.

use super::prices::{PriceList, Route, Unlisted};

/// Most characters of a pattern.
const PATTERN: usize = 200;

/// What a price list has, ready to be looked through.
pub(super) struct Shelf {
    list: PriceList,
    /// Of each route: as it is written, and as careless servers read it.
    patterns: Vec<(Pattern, Pattern)>,
}

/// What a request finds on the shelf.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// It costs something.
    Sold(&'a Route),
    /// It is served without payment.
    Free,
    /// The same, but what is priced there is given to no such request: of the answer, only its head.
    Head,
    /// There is something that costs, under these methods or in another spelling.
    Otherwise(Vec<&'a str>),
    /// There is nothing.
    Nothing,
}

impl Shelf {
    /// Takes a list that was checked.
    pub(super) fn new(list: PriceList) -> Self {
        let pattern = |route: &Route| {
            // A route that cannot be read fits nothing; the check finds it.
            let pattern = Pattern::parse(&route.path).unwrap_or(Pattern(Vec::new()));
            let loose = pattern.loose();
            (pattern, loose)
        };
        Self { patterns: list.routes.iter().map(pattern).collect(), list }
    }

    pub(super) const fn list(&self) -> &PriceList {
        &self.list
    }

    /// Finds the first route that fits a method and a path that [`plain`] let through.
    pub(super) fn find(&self, method: &str, path: &str) -> Place<'_> {
        let all = || self.patterns.iter().zip(&self.list.routes);
        let fits = all().find(|((written, _), route)| written.fits(path) && route.sells(method));
        match fits {
            Some((_, route)) if route.price.is_zero() => return Place::Free,
            Some((_, route)) => return Place::Sold(route),
            None if self.list.unlisted == Unlisted::Refuse => return Place::Nothing,
            None => {}
        }
        // Many servers answer one method like another, and `/Report/` like `/report`.
        let path = loose(path);
        let near = || all().filter(|((_, loose), _)| loose.fits(&path)).map(|(_, route)| route);
        if near().all(|route| route.price.is_zero()) {
            Place::Free
        } else if method == "OPTIONS" {
            Place::Head
        } else {
            let mut methods: Vec<&str> = near().flat_map(Route::allows).collect();
            methods.push("OPTIONS");
            methods.sort_unstable();
            methods.dedup();
            Place::Otherwise(methods)
        }
    }
}

/// A route's path, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Any,
    Rest,
}

impl Pattern {
    /// Reads a pattern; `None` if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let path = text.strip_prefix('/')?;
        if text.len() > PATTERN || plain(text).as_deref() != Some(text) {
            return None;
        }
        let segments: Vec<&str> = path.split('/').collect();
        let last = segments.len() - 1;
        let parts = segments.iter().enumerate().map(|(at, segment)| {
            let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            match name {
                Some(name) if name.starts_with('*') => (at == last).then_some(Part::Rest),
                Some(_) => Some(Part::Any),
                None if segment.contains(['{', '}']) => None,
                None => Some(Part::Text((*segment).to_owned())),
            }
        });
        parts.collect::<Option<Vec<Part>>>().map(Self)
    }

    /// The same for a path that [`loose`] made.
    fn loose(&self) -> Self {
        let mut parts = self.0.clone();
        if parts.len() > 1 {
            parts.pop_if(|last| *last == Part::Text(String::new()));
        }
        for part in &mut parts {
            if let Part::Text(text) = part {
                *text = text.to_lowercase();
            }
        }
        Self(parts)
    }

    /// Does a path that [`plain`] let through fit?
    pub(super) fn fits(&self, path: &str) -> bool {
        let mut segments = path.trim_start_matches('/').split('/');
        for part in &self.0 {
            match (part, segments.next()) {
                (Part::Rest, _) => return true,
                (_, None) => return false,
                (Part::Any, Some("")) => return false,
                (Part::Any, Some(_)) => {}
                (Part::Text(text), Some(segment)) if text != segment => return false,
                (Part::Text(_), Some(_)) => {}
            }
        }
        segments.next().is_none()
    }
}

/// A path as servers read it that care for neither letters' case nor a trailing slash.
fn loose(path: &str) -> String {
    path.trim_end_matches('/').to_lowercase()
}

/// Undoes the escapes of a path, if it can be read in one way only: no `//`, no dots as segments, no
/// escaped slashes, no backslash, no control characters. What could mean one route here and another one
/// behind is `None`.
pub(super) fn plain(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
        // An escaped slash or percent sign means another path to some.
        if matches!(byte, b'/' | b'%') {
            return None;
        }
        bytes.push(byte);
    }
    let path = String::from_utf8(bytes).ok()?;
    let inner = path.strip_prefix('/')?;
    let is_odd = |segment: &str| matches!(segment, "." | "..");
    let empty = inner.split('/').rev().skip(1).any(str::is_empty);
    let odd = path.contains(['\\', ';']) || path.chars().any(char::is_control);
    (!empty && !odd && !inner.split('/').any(is_odd)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_fits_in_one_way_or_not_at_all() {
        let city = Pattern::parse("/weather/{city}").unwrap();
        for (path, fits) in [
            ("/weather/bern", true),
            ("/weather/b%C3%A4rn", true),
            ("/%77eather/bern", true),
            ("/weather/", false),
            ("/weather/bern/", false),
            ("/weather/bern/now", false),
            ("/weather", false),
        ] {
            assert_eq!(city.fits(&plain(path).unwrap()), fits, "{path}");
        }
        for path in [
            "//weather/bern",
            "/weather//bern",
            "/weather/../admin",
            "/weather/%2e%2e",
            "/weather/a%2Fb",
            "/weather/a%252Fb",
            "/weather/a\\b",
            "/weather/a;b",
            "/weather/%00",
            "/weather/%zz",
            "/weather/%+1",
            "/weather/%f",
            "/weather/%ff",
            "weather/bern",
            "*",
        ] {
            assert_eq!(plain(path), None, "{path}");
        }
        let rest = Pattern::parse("/files/{*rest}").unwrap();
        assert!(rest.fits("/files/a/b/c") && rest.fits("/files/a") && !rest.fits("/filesa"));
        assert!(Pattern::parse("/").unwrap().fits("/"));
    }

    #[test]
    fn what_is_priced_is_free_in_no_other_way() {
        let list = |unlisted: &str| {
            let text =
                format!("public_origin = \"https://api.example.com\"\nunlisted = \"{unlisted}\"\n");
            let routes = [
                ("/report", "POST", "0"),
                ("/report", "GET", "1"),
                ("/Shelf/", "PUT", "1"),
                ("/weather/{city}", "GET", "1"),
                ("/files/{*rest}", "GET", "1"),
                ("/", "GET", "1"),
                ("/free", "GET", "0"),
            ];
            let routes = routes.map(|(path, method, price)| {
                format!(
                    "[[route]]\npath = \"{path}\"\nmethods = [\"{method}\"]\n\
                     price = \"{price}\"\ndescription = \"it\"\n"
                )
            });
            let list: PriceList = toml::from_str(&(text + &routes.concat())).unwrap();
            list.check().unwrap();
            Shelf::new(list)
        };
        let (free, refuse) = (list("free"), list("refuse"));
        let said = |shelf: &Shelf, method: &str, path: &str| match shelf.find(method, path) {
            Place::Sold(_) => "sold".to_owned(),
            Place::Free => "free".to_owned(),
            Place::Head => "head".to_owned(),
            Place::Otherwise(methods) => methods.join(" "),
            Place::Nothing => "nothing".to_owned(),
        };
        for (method, path, place) in [
            ("GET", "/report", "sold"),
            ("HEAD", "/report", "sold"),
            ("POST", "/report", "free"),
            ("PUT", "/report", "GET HEAD OPTIONS POST"),
            ("FOO", "/report", "GET HEAD OPTIONS POST"),
            ("OPTIONS", "/report", "head"),
            ("GET", "/report/", "GET HEAD OPTIONS POST"),
            ("GET", "/REPORT", "GET HEAD OPTIONS POST"),
            ("POST", "/REPORT", "GET HEAD OPTIONS POST"),
            ("PUT", "/shelf", "OPTIONS PUT"),
            ("GET", "/weather/bern/", "GET HEAD OPTIONS"),
            ("POST", "/Weather/Bern", "GET HEAD OPTIONS"),
            ("GET", "/weather/", "free"),
            ("POST", "/FILES/a/b", "GET HEAD OPTIONS"),
            ("POST", "/", "GET HEAD OPTIONS"),
            ("POST", "/free", "free"),
            ("GET", "/reports", "free"),
        ] {
            assert_eq!(said(&free, method, path), place, "{method} {path}");
            let strict = if matches!(place, "sold") || (method, path) == ("POST", "/report") {
                place
            } else {
                "nothing"
            };
            assert_eq!(said(&refuse, method, path), strict, "{method} {path}");
        }
    }
}
