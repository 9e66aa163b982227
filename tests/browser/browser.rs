//! A Chromium of a test's own, and the acts of its reader.
//!
//! Nothing here sleeps "long enough": every step waits until the page has what it needs. A test
//! that fails leaves a picture and the page's source in `target/browser-failures/`.

use std::io::{BufRead as _, BufReader};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use axum::http::Method;
use base64::Engine as _;
use fantoccini::error::{CmdError, ErrorStatus};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator, elements::Element};
use futures_util::FutureExt as _;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use url::Url;

use crate::support::app::TestApp;
use crate::support::wait::DEADLINE;

/// The number of browsers at once. Each takes most of a core while it starts.
static ROOM: Semaphore = Semaphore::const_new(2);

/// Whether pages may run script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    On,
    Off,
}

/// The colour scheme of the reader's system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

/// A window of a browser with a fresh profile, on the pages of one node.
#[derive(Debug)]
pub(crate) struct Browser {
    pub(crate) client: Client,
    url: String,
    script: Script,
}

/// Opens a browser, runs the journey, closes it. A journey that panics leaves its last page in
/// `target/browser-failures/`.
pub(crate) async fn browse(app: &TestApp, script: Script, journey: impl AsyncFnOnce(&Browser)) {
    let _room = ROOM.acquire().await.unwrap();
    let profile = TempDir::new().unwrap();
    let client = connect(script, &profile).await;
    let browser = Browser {
        client,
        url: app.url(),
        script,
    };
    browser.resize(1280, 900).await;
    browser.scheme(Scheme::Light).await;
    let outcome = AssertUnwindSafe(journey(&browser)).catch_unwind().await;
    if outcome.is_err() {
        browser.keep_evidence().await;
    }
    browser.client.close().await.ok();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// The journey with script, then without.
pub(crate) async fn browse_both(journey: impl AsyncFn(&TestApp, &Browser)) {
    for script in [Script::On, Script::Off] {
        let app = TestApp::start().await;
        browse(&app, script, async |browser| journey(&app, browser).await).await;
    }
}

impl Browser {
    /// Whether pages may run script.
    pub(crate) fn script(&self) -> Script {
        self.script
    }

    /// Opens one of the node's pages.
    pub(crate) async fn open(&self, path: &str) {
        self.client
            .goto(&format!("{}{path}", self.url))
            .await
            .unwrap();
    }

    /// Opens the path of a URL from a letter, on this node, whatever host the URL has.
    pub(crate) async fn open_url(&self, url: &str) {
        let url: Url = url.parse().unwrap();
        self.open(&url[url::Position::BeforePath..]).await;
    }

    /// The path of the page that is open, with its query.
    pub(crate) async fn path(&self) -> String {
        let url = self.client.current_url().await.unwrap();
        url[url::Position::BeforePath..url::Position::AfterQuery].to_owned()
    }

    /// Waits until the page of this path is open.
    #[track_caller]
    pub(crate) fn is_at<'a>(&'a self, path: &str) -> impl Future<Output = ()> + use<'a> {
        let caller = std::panic::Location::caller();
        let path = path.to_owned();
        async move {
            let started = Instant::now();
            loop {
                let now = self.path().await;
                if now == path || now.split('?').next() == Some(&path) {
                    return;
                }
                assert!(
                    started.elapsed() < DEADLINE,
                    "at {now}, not {path} ({caller})"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Waits for an element, and returns it.
    #[track_caller]
    pub(crate) fn find<'a>(&'a self, css: &str) -> impl Future<Output = Element> + use<'a> {
        self.wait_for(css.to_owned(), css.to_owned(), false)
    }

    /// Whether the page has such an element now.
    pub(crate) async fn has(&self, css: &str) -> bool {
        !self
            .client
            .find_all(Locator::Css(css))
            .await
            .unwrap()
            .is_empty()
    }

    /// Waits until the visible content of the page has this text.
    #[track_caller]
    pub(crate) fn sees<'a>(&'a self, text: &str) -> impl Future<Output = ()> + use<'a> {
        let caller = std::panic::Location::caller();
        let text = text.to_owned();
        async move {
            let started = Instant::now();
            loop {
                let page = self.text().await;
                if page.contains(&text) {
                    return;
                }
                assert!(
                    started.elapsed() < DEADLINE,
                    "the page does not say {text:?} ({caller}):\n{page}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// The visible text of the page.
    pub(crate) async fn text(&self) -> String {
        let Ok(body) = self.client.find(Locator::Css("body")).await else {
            return String::new();
        };
        body.text().await.unwrap_or_default()
    }

    /// The visible text of an element.
    pub(crate) async fn text_of(&self, css: &str) -> String {
        self.find(css).await.text().await.unwrap()
    }

    /// Replaces the text of a field.
    #[track_caller]
    pub(crate) fn fill<'a>(&'a self, css: &str, text: &str) -> impl Future<Output = ()> + use<'a> {
        let text = text.to_owned();
        let found = self.find(css);
        async move {
            let field = found.await;
            field.clear().await.unwrap();
            field.send_keys(&text).await.unwrap();
        }
    }

    /// Chooses in a list.
    pub(crate) async fn choose(&self, css: &str, value: &str) {
        self.find(css).await.select_by_value(value).await.unwrap();
    }

    /// Clicks something that does not lead to another page.
    pub(crate) async fn click(&self, css: &str) {
        self.find(css).await.click().await.unwrap();
    }

    /// Presses the button or follows the link of this name (its text, or its name for screen
    /// readers), and waits for the page that it leads to. Confirms a dialog.
    #[track_caller]
    pub(crate) fn press<'a>(&'a self, name: &str) -> impl Future<Output = ()> + use<'a> {
        self.press_in("body", name)
    }

    /// As [`Browser::press`], within an element of this kind.
    #[track_caller]
    pub(crate) fn press_in<'a>(
        &'a self,
        within: &str,
        name: &str,
    ) -> impl Future<Output = ()> + use<'a> {
        let caller = std::panic::Location::caller();
        let literal = xpath_literal(name);
        let by_name = |element: &str| {
            format!(
                "//{within}//{element}[@aria-label = {literal} \
                 or (not(@aria-label) and normalize-space() = {literal})]"
            )
        };
        let xpath = format!("{} | {}", by_name("button"), by_name("a"));
        let name = name.to_owned();
        async move {
            let page = self.find("html").await;
            let started = Instant::now();
            loop {
                let button = self.wait_for(xpath.clone(), name.clone(), true).await;
                match button.click().await {
                    Ok(()) => break,
                    // A live list was replaced between finding and clicking.
                    Err(error) if is_transient(&error) && started.elapsed() < DEADLINE => {}
                    Err(error) => panic!("cannot press {literal} ({caller}): {error}"),
                }
            }
            if self.client.get_alert_text().await.is_ok() {
                self.client.accept_alert().await.unwrap();
            }
            // Once the new page is there, the element of the old one is unknown.
            while page.tag_name().await.is_ok() {
                assert!(
                    started.elapsed() < DEADLINE,
                    "pressing {literal} leads nowhere ({caller})"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            self.wait_for("main".to_owned(), "main".to_owned(), false)
                .await;
        }
    }

    #[track_caller]
    fn wait_for(
        &self,
        search: String,
        what: String,
        by_xpath: bool,
    ) -> impl Future<Output = Element> {
        let caller = std::panic::Location::caller();
        async move {
            let started = Instant::now();
            loop {
                let locator = if by_xpath {
                    Locator::XPath(&search)
                } else {
                    Locator::Css(&search)
                };
                match self.client.find(locator).await {
                    Ok(element) => return element,
                    Err(error) if is_transient(&error) => {}
                    Err(error) => panic!("looking for {what:?} ({caller}): {error}"),
                }
                assert!(
                    started.elapsed() < DEADLINE,
                    "there is no {what:?} ({caller}) on the page:\n{}",
                    self.text().await
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// The size of the page's window, in CSS pixels.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// Sets the colour scheme.
    pub(crate) async fn scheme(&self, scheme: Scheme) {
        let value = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        // Without movement: colours that are still on their way from one scheme to the other would
        // be measured.
        let features = [
            ("prefers-color-scheme", value),
            ("prefers-reduced-motion", "reduce"),
        ]
        .map(|(name, value)| json!({ "name": name, "value": value }));
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )
        .await;
    }

    /// A picture of the whole page, as PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        let shot = json!({ "format": "png", "captureBeyondViewport": true });
        let answer = self.devtools("Page.captureScreenshot", shot).await;
        base64::engine::general_purpose::STANDARD
            .decode(answer["data"].as_str().unwrap())
            .unwrap()
    }

    /// A command of Chromium's own protocol.
    pub(crate) async fn devtools(&self, command: &'static str, parameters: Value) -> Value {
        self.client
            .issue_cmd(DevTools {
                command,
                parameters,
            })
            .await
            .unwrap()
    }

    async fn keep_evidence(&self) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/browser-failures");
        let name = std::thread::current()
            .name()
            .unwrap_or("test")
            .replace("::", "-");
        let path = folder.join(format!("{name}-{:?}", self.script));
        std::fs::create_dir_all(&folder).ok();
        if let Ok(picture) = self.client.screenshot().await {
            std::fs::write(path.with_extension("png"), picture).ok();
        }
        if let Ok(source) = self.client.source().await {
            std::fs::write(path.with_extension("html"), source).ok();
        }
        eprintln!("what the browser showed: {}.png", path.display());
    }
}

fn is_transient(error: &CmdError) -> bool {
    match error {
        CmdError::Standard(error) => matches!(
            error.error,
            ErrorStatus::NoSuchElement
                | ErrorStatus::StaleElementReference
                | ErrorStatus::UnknownError
        ),
        _ => false,
    }
}

fn xpath_literal(text: &str) -> String {
    if text.contains('\'') {
        format!("\"{text}\"")
    } else {
        format!("'{text}'")
    }
}

#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!(
            "session/{}/goog/cdp/execute",
            session.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (
            Method::POST,
            Some(json!({ "cmd": self.command, "params": self.parameters }).to_string()),
        )
    }
}

async fn connect(script: Script, profile: &TempDir) -> Client {
    let driver = tokio::task::spawn_blocking(Driver::shared).await.unwrap();
    let mut arguments: Vec<String> = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--lang=en-US",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("--user-data-dir={}", profile.path().display()));
    let mut options = json!({ "args": arguments });
    if script == Script::Off {
        options["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
    }
    if let Some(chromium) = chromium() {
        options["binary"] = json!(chromium);
    }
    let mut capabilities = serde_json::Map::new();
    capabilities.insert("goog:chromeOptions".to_owned(), options);
    // The tests read dialogs before they confirm them.
    capabilities.insert("unhandledPromptBehavior".to_owned(), json!("ignore"));
    let mut builder = ClientBuilder::new(HttpConnector::new());
    builder
        .capabilities(capabilities)
        .connect(&driver.url)
        .await
        .expect("Chromium starts; script/bootstrap installs it")
}

/// The path of Chromium; `None` if its driver finds it by itself.
fn chromium() -> Option<PathBuf> {
    let folders: Vec<_> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .find_map(|name| {
            folders
                .iter()
                .map(|folder| folder.join(name))
                .find(|path| path.is_file())
        })
}

/// chromedriver, which all tests of the process share.
struct Driver {
    url: String,
    /// Its input ends with this process, however that ends; see [`WATCHDOG`].
    _watchdog: Child,
}

/// Stops chromedriver, and with it its browsers, when the tests are gone: they hold the other end
/// of its input.
const WATCHDOG: &str = r#"
"$@" </dev/null & driver=$!
read -r _
kill $driver; wait $driver
"#;

impl Driver {
    fn shared() -> &'static Driver {
        static SHARED: OnceLock<Driver> = OnceLock::new();
        SHARED.get_or_init(|| {
            let mut watchdog = Command::new("/bin/sh")
                .args(["-c", WATCHDOG, "sh", "chromedriver", "--port=0"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let output = BufReader::new(watchdog.stdout.take().unwrap());
            let mut lines = output.lines().map_while(Result::ok);
            let port = lines
                .find_map(|line| {
                    line.split("successfully on port ")
                        .nth(1)?
                        .trim_end_matches('.')
                        .parse::<u16>()
                        .ok()
                })
                .expect("chromedriver starts and says on which port; script/bootstrap installs it");
            // Read on, so that it never waits for a reader.
            std::thread::spawn(move || lines.for_each(drop));
            Driver {
                url: format!("http://127.0.0.1:{port}/"),
                _watchdog: watchdog,
            }
        })
    }
}
