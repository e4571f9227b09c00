//! The dashboard: one page with its style and its script, in the binary. No build step, no other host.
//!
//! The page is open to all and holds nothing: what it shows it asks the admin API for, with the token
//! that its reader gives it.

use axum::http::{HeaderName, header};
use axum::response::IntoResponse;

/// Nothing inline, nothing from elsewhere, no frame around it, no form that leaves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, text)
}

pub(super) async fn page() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("dashboard/index.html"))
}

pub(super) async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("dashboard/style.css"))
}

pub(super) async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("dashboard/app.js"))
}

pub(super) async fn icon() -> impl IntoResponse {
    file("image/svg+xml", include_str!("dashboard/icon.svg"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_small_and_names_no_other_host() {
        let files = [
            include_str!("dashboard/index.html"),
            include_str!("dashboard/style.css"),
            include_str!("dashboard/app.js"),
            include_str!("dashboard/icon.svg"),
        ];
        assert!(files.iter().map(|file| file.len()).sum::<usize>() < 30_000);
        for file in files {
            // The names of SVG's namespace are no places.
            let places = file.replace("http://www.w3.org/2000/svg", "");
            assert!(!places.contains("//") || !places.contains("http"), "another host");
            assert!(!file.contains("innerHTML") && !file.contains("style=\""));
        }
    }
}
