//! The report in a real browser: what should be there is seen, on a desk and on a phone.
//!
//! Needs Debian's `chromium-driver`; without, it says NOT RUN, and fails where `CI` is set. Pictures
//! are left in `GOSSAMER_SCREENSHOTS`, or cargo's temporary folder.

#[allow(dead_code, reason = "the dashboard's test also types, and looks for complaints elsewhere")]
#[path = "../../server/tests/fixtures/browser.rs"]
mod browser;

use std::path::PathBuf;
use std::process::Command;

use browser::Browser;

const FLEET: &str = include_str!("../scenarios/fleet.toml");

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_is_seen() {
    let Some(browser) = Browser::start().await else {
        let told = "there is no chromedriver: install Debian's chromium-driver";
        assert!(std::env::var_os("CI").is_none(), "{told}");
        eprintln!("NOT RUN: {told}");
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("fleet.toml");
    let mut text =
        FLEET.replace("seeds = [1]", "seeds = [1, 2]").replace("rounds = 6", "rounds = 3");
    text += "[[method]]\nname = \"too fast\"\ntraining.optimizer = { kind = \"sgd\", lr = 1e9 }\n\
             method = { download = { density = 1.0 }, upload = { density = 1.0 } }\n";
    std::fs::write(&file, text).expect("written");
    let out = dir.path().join("out");
    let made = Command::new(env!("CARGO_BIN_EXE_gossamer-sim"))
        .arg("compare")
        .arg(&file)
        .arg("--out")
        .arg(&out)
        .args(["--tune-lr", "2", "--tune-rounds", "1"])
        .output()
        .expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let pictures = std::env::var_os("GOSSAMER_SCREENSHOTS").map(PathBuf::from);
    let pictures = pictures.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    std::fs::create_dir_all(&pictures).expect("a folder");
    browser.screen(1280, 900, "light").await;
    browser.open(&format!("file://{}", out.join("report.html").display())).await;
    browser.until("document.querySelectorAll('svg.plot').length === 7").await;
    let page = browser.eval("document.body.innerText").await;
    let page = page.as_str().expect("text");
    for seen in [
        "Loss and rounds",
        "Loss and bytes",
        "Loss for all bytes",
        "Loss and virtual time",
        "At equal bytes",
        "time to 90%",
        "Learning rates",
        "yes, at the edge",
        "Clients and tiers",
        "worst 10 %",
        "Who got what",
        "diverged, round 1",
        "95 % t-interval over 2 seeds",
        "gossamer-sim compare ",
        "[[fleet.tier]]",
    ] {
        assert!(page.contains(seen), "{seen:?} is not seen in:\n{page}");
    }
    let drawn = "[...document.querySelectorAll('svg.plot')].map(plot => plot.textContent).join()";
    let drawn = browser.eval(drawn).await;
    let drawn = drawn.as_str().expect("text");
    for seen in [
        "too fast (diverged)",
        "none better for fewer bytes",
        "seconds of virtual time",
        "each client, after the last round",
        "of the worst tenth of clients",
        "board",
    ] {
        assert!(drawn.contains(seen), "{seen:?} is in no plot");
    }
    // Bands of two seeds: filled shapes that are not dots.
    assert_ne!(browser.eval("document.querySelectorAll('svg.plot polygon').length").await, 0);
    for (name, width, height, scheme) in [
        ("desktop-light", 1280, 900, "light"),
        ("desktop-dark", 1280, 900, "dark"),
        ("phone-light", 390, 844, "light"),
        ("phone-dark", 390, 844, "dark"),
    ] {
        browser.screen(width, height, scheme).await;
        let wide = browser.eval("document.documentElement.scrollWidth - innerWidth").await;
        assert!(wide.as_i64() <= Some(0), "{name}: {wide} pixels too wide");
        browser.shoot(&pictures.join(format!("report-{name}.png"))).await;
    }
    // On a desk nothing is cut: what scrolls by itself is as wide as it shows.
    browser.screen(1280, 900, "light").await;
    let cut =
        "[...document.querySelectorAll('.wide')].filter(w => w.scrollWidth > w.clientWidth).length";
    assert_eq!(browser.eval(cut).await, 0, "tables or plots are cut");
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
    eprintln!("pictures are in {}", pictures.display());
}
