//! The name of a browser, as the owner of a session recognizes it. Decides nothing: browsers say
//! what they like.

/// `Firefox on Linux`, from a `User-Agent` header.
pub(super) fn browser_name(user_agent: Option<&str>) -> String {
    let Some(text) = user_agent else {
        return "Unknown browser".to_owned();
    };
    let first = |table: &[(&str, &'static str)]| {
        table
            .iter()
            .find(|(mark, _)| text.contains(mark))
            .map(|(_, name)| *name)
    };
    // The order matters: browsers also claim to be those that stand after them.
    let browser = first(&[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = first(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ]);
    match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        (None, _) => text.chars().take(40).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::browser_name;

    #[test]
    fn browsers_are_recognized_and_others_shown_as_they_are() {
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/131.0.0.0 Safari/537.36";
        assert_eq!(browser_name(Some(chrome)), "Chrome on Linux");
        assert_eq!(
            browser_name(Some(
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1"
            )),
            "Safari on iPhone"
        );
        assert_eq!(browser_name(Some("my-script/1.0")), "my-script/1.0");
        assert_eq!(browser_name(None), "Unknown browser");
    }
}
