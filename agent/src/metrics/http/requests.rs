//! How often which page was asked for, and with what success.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use hyper::StatusCode;

/// Every page; whatever else is asked for is counted as one.
pub(crate) const PAGES: [&str; 5] = ["/", "/metrics", "/status", "/healthz", "/readyz"];

/// Counters that the listener shares with whoever shows them; both are on one thread.
#[derive(Clone, Debug, Default)]
pub struct Requests(Rc<RefCell<BTreeMap<(&'static str, u16), u64>>>);

impl Requests {
    pub(super) fn count(&self, path: &str, status: StatusCode) {
        let page = PAGES.into_iter().find(|page| *page == path).unwrap_or("other");
        *self.0.borrow_mut().entry((page, status.as_u16())).or_default() += 1;
    }

    /// Each page with a status that it was answered with, and how often.
    pub fn counts(&self) -> Vec<(&'static str, u16, u64)> {
        self.0.borrow().iter().map(|((page, status), count)| (*page, *status, *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_pages_are_one() {
        let requests = Requests::default();
        for path in ["/metrics", "/metrics", "/wp-login.php", "/../etc/passwd"] {
            let found = PAGES.contains(&path);
            requests.count(path, if found { StatusCode::OK } else { StatusCode::NOT_FOUND });
        }
        assert_eq!(requests.counts(), [("/metrics", 200, 2), ("other", 404, 2)]);
    }
}
