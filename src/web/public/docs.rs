//! `/docs`: the documentation for users, with this service's own URL in its examples.

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use crate::plans;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, page_for};
use crate::web::state::{ApiReference, Web};
use crate::web::ui::limits::LimitsView;
use crate::web::ui::page::{Page, Tab, render};
use crate::web::ui::snippet::Snippet;

#[derive(Template)]
#[template(path = "public/docs.html")]
struct DocsPage<'a> {
    page: Page,
    first: Snippet,
    shell: Snippet,
    run: Snippet,
    waiting: Snippet,
    python: Snippet,
    python_client: Snippet,
    is_https: bool,
    fencing_sql: Snippet,
    fencing_object: Snippet,
    problem: Snippet,
    plans: Vec<LimitsView>,
    api: &'a ApiReference,
}

pub(crate) async fn show(
    State(web): State<Web>,
    current: Option<CurrentAccount>,
) -> Result<Response, WebError> {
    let url = web.base_url();
    // The page is there while the database is unavailable, too, without the plans' limits.
    let plans = plans::list(&web.app.db).await.unwrap_or_default();
    let public_url = &web.app.public_url;
    let host = match (public_url.host_str(), public_url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or("localhost").to_owned(),
    };
    let fill = |text: &str| text.trim().replace("{url}", url).replace("{host}", &host);
    render(&DocsPage {
        page: page_for(current.as_ref(), "Using Lockable", Tab::Docs).await?,
        first: Snippet::new("code-first", "In your shell", fill(FIRST)),
        shell: Snippet::new("code-shell", "nightly.sh", fill(SHELL)),
        run: Snippet::new("code-run", "With the program", fill(RUN)),
        waiting: Snippet::new("code-waiting", "In your shell", fill(WAITING)),
        python: Snippet::new("code-python", "nightly.py", fill(PYTHON)),
        python_client: Snippet::new(
            "code-python-client",
            "With the public client",
            fill(PYTHON_CLIENT),
        ),
        is_https: public_url.scheme() == "https",
        fencing_sql: Snippet::new("code-fencing-sql", "SQL", fill(FENCING_SQL)),
        fencing_object: Snippet::new(
            "code-fencing-object",
            "Python, with an S3 client",
            fill(FENCING_OBJECT),
        ),
        problem: Snippet::new("code-problem", "A problem document", fill(PROBLEM)),
        plans: plans
            .iter()
            .map(|plan| LimitsView::of_plan(&plan.limits))
            .collect(),
        api: &web.api,
    })
}

const FIRST: &str = r#"
export LOCKABLE_AUTH_TOKEN=your-token
curl -u $LOCKABLE_AUTH_TOKEN: {url}/v1/acquire/my-first-lock
"#;

const SHELL: &str = r#"
#!/bin/sh
# Exits as the job does, or with 75 (try later) where the
# lock is taken or cannot be had.
name=nightly-report
lease_id=$(cat /proc/sys/kernel/random/uuid)   # or uuidgen
ask() {
  # --retry repeats what got no answer, 429 and 5xx; with a
  # lease id that is safe. It gives up within 35 seconds: with
  # the sleep below that is less than a lease of 60.
  curl --silent --show-error --fail --max-time 5 \
    --retry 4 --retry-max-time 20 --retry-connrefused \
    --user "$LOCKABLE_AUTH_TOKEN:" "{url}/v1/$1/$name?lease_id=$lease_id"
}
granted() { [ "$(ask "$1")" = '{"response": true}' ]; }

granted acquire || { echo "$name is taken" >&2; exit 75; }

# However this ends: first the job, then the heartbeats, then the lock.
trap '{ kill $job; wait $job; kill $beat; } 2>/dev/null; ask release >/dev/null' EXIT
trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM

./nightly-report & job=$!
( while sleep 15 >/dev/null 2>&1; do
    # Without this script ($$) nobody would end it all.
    kill -0 $$ 2>/dev/null && granted heartbeat && continue
    echo "$name is lost" >&2
    kill $job; sleep 5; kill -9 $job 2>/dev/null; exit
  done ) & beat=$!

wait $job
"#;

const RUN: &str = r#"
export LOCKABLE_URL={url} LOCKABLE_AUTH_TOKEN=your-token
lockable run nightly-report -- ./nightly-report
"#;

const WAITING: &str = r#"
lease_id=$(cat /proc/sys/kernel/random/uuid)   # or uuidgen
curl --max-time 60 --user "$LOCKABLE_AUTH_TOKEN:" \
  "{url}/v1/acquire/nightly-report?wait_ms=50000&lease_id=$lease_id"
"#;

const PYTHON: &str = r#"
import os, sys, threading, time, uuid
from urllib.parse import quote
import requests

URL, AUTH = "{url}", (os.environ["LOCKABLE_AUTH_TOKEN"], "")

def ask(what, name, lease_id, tries=4):
    for left in reversed(range(tries)):
        sent = time.monotonic()
        try:
            answer = requests.get(f"{URL}/v1/{what}/{quote(name, safe='')}", auth=AUTH,
                                  params={"lease_id": lease_id}, timeout=5)
            if answer.status_code == 200:
                left_ms = int(answer.headers.get("Lockable-Expires-In-Ms", 0))
                return answer.json()["response"], answer.headers, sent + left_ms / 1000
            if answer.status_code not in (429, 500, 502, 503, 504):
                answer.raise_for_status()
        except (requests.ConnectionError, requests.Timeout):
            pass
        if left:
            time.sleep(1)
    raise RuntimeError(f"{what} {name}: no answer")

lease_id = str(uuid.uuid4())
granted, headers, deadline = ask("acquire", "nightly-report", lease_id)
if granted:
    fencing_token = int(headers["Lockable-Fencing-Token"])  # for what you write to
    done = threading.Event()

    def beat():
        global deadline
        pause = 15
        while not done.wait(pause):
            try:
                held, _, until = ask("heartbeat", "nightly-report", lease_id)
            except Exception as error:  # not known: try again, until the deadline
                print(error, file=sys.stderr)
                pause = 1
                continue
            if not held and not done.is_set():
                os._exit(1)  # lost: stop at once
            deadline, pause = until, 15

    def watch():  # whatever holds up the heartbeats
        while not done.wait(1):
            if time.monotonic() > deadline - 5:
                os._exit(1)  # about to be lost

    for loop in (beat, watch):
        threading.Thread(target=loop, daemon=True).start()
    try:
        ...  # the work
    finally:
        done.set()
        ask("release", "nightly-report", lease_id)
"#;

const PYTHON_CLIENT: &str = r#"
import datetime, lockable, lockable.lock  # pip install lockable.dev
lockable.client.LOCKABLE_DOMAIN = "{host}"
loop = lockable.lock.HeartBeatLoop
loop.heartbeat_sleep_period = datetime.timedelta(seconds=15)

with lockable.Lock("nightly-report"):  # the token is in LOCKABLE_AUTH_TOKEN
    ...  # the work
"#;

const FENCING_SQL: &str = r#"
ALTER TABLE report ADD COLUMN fencing_token bigint NOT NULL DEFAULT 0;

UPDATE report
   SET body = :body, fencing_token = :token
 WHERE id = :id AND fencing_token <= :token;
"#;

const FENCING_OBJECT: &str = r#"
head = s3.head_object(Bucket="reports", Key="nightly")
if int(head["Metadata"].get("fencing-token", 0)) > fencing_token:
    raise RuntimeError("a later holder was here")
s3.put_object(Bucket="reports", Key="nightly", Body=body,
              Metadata={"fencing-token": str(fencing_token)},
              IfMatch=head["ETag"])  # refused if somebody wrote in between
"#;

const PROBLEM: &str = r#"
HTTP/1.1 403 Forbidden
Content-Type: application/problem+json

{
  "type": "{url}/docs#problem-plan-does-not-allow",
  "title": "Not in the plan",
  "status": 403,
  "code": "plan-does-not-allow",
  "detail": "what to do, in a sentence",
  "request_id": "what to mention when you ask for help"
}
"#;
