//! The files that pages load: style, script, fonts, the icon. In the binary, under a path that
//! changes with their content.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

struct Asset {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! asset {
    ($name:literal, $path:literal, $media_type:literal) => {
        Asset {
            name: $name,
            media_type: $media_type,
            bytes: include_bytes!(concat!("../../assets/", $path)),
        }
    };
}

const ASSETS: &[Asset] = &[
    asset!(
        "pico-2.1.1.min.css",
        "vendor/pico-2.1.1.min.css",
        "text/css; charset=utf-8"
    ),
    asset!("lockable.css", "lockable.css", "text/css; charset=utf-8"),
    asset!(
        "lockable.js",
        "lockable.js",
        "text/javascript; charset=utf-8"
    ),
    asset!("favicon.svg", "favicon.svg", "image/svg+xml"),
    asset!(
        "inter-5.3.0-latin.woff2",
        "vendor/inter-5.3.0-latin.woff2",
        "font/woff2"
    ),
    asset!(
        "jetbrains-mono-5.3.0-latin.woff2",
        "vendor/jetbrains-mono-5.3.0-latin.woff2",
        "font/woff2"
    ),
];

/// One version for all assets, so that the style sheet can name its fonts by relative URLs.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for asset in ASSETS {
        digest.update(asset.name);
        digest.update(asset.bytes);
    }
    hex::encode(&digest.finalize()[..8])
});

/// The path that a page loads this asset from.
pub(crate) fn path(name: &str) -> String {
    debug_assert!(
        ASSETS.iter().any(|asset| asset.name == name),
        "no asset {name}"
    );
    format!("/assets/{}/{name}", *VERSION)
}

/// `GET /assets/{version}/{name}`
pub(super) async fn get(Path((version, name)): Path<(String, String)>) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // While nodes of two versions serve, a page of one may load from the other. Nobody may keep
    // that response.
    let caching = if version == *VERSION {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    respond(asset, caching)
}

/// `GET /favicon.ico`, for programs that have not read a page.
pub(super) async fn icon() -> Response {
    let icon = ASSETS
        .iter()
        .find(|asset| asset.name == "favicon.svg")
        .expect("the icon is an asset");
    respond(icon, "public, max-age=86400")
}

fn respond(asset: &Asset, caching: &'static str) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(asset.media_type),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
        // The icon styles itself by the reader's colour scheme.
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
        ),
    ];
    (headers, asset.bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_font_that_the_style_names_is_served() {
        let style = ASSETS
            .iter()
            .find(|asset| asset.name == "lockable.css")
            .unwrap();
        let style = std::str::from_utf8(style.bytes).unwrap();
        let fonts: Vec<_> = style
            .split("url(\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert_eq!(fonts.len(), 2);
        for font in fonts {
            assert!(ASSETS.iter().any(|asset| asset.name == font), "{font}");
        }
    }
}
