// A phone in a page: it registers by what its address says, tells the test what happens, and refuses whoever calls.
const JsSIP = require("jssip");

const asked = new URLSearchParams(window.location.search);
const [url, number, domain] = [asked.get("url"), asked.get("number"), asked.get("domain")];

function tell(event, more = {}) {
  fetch("/said", { method: "POST", body: JSON.stringify({ event, ...more }) });
}

const phone = new JsSIP.UA({
  sockets: [new JsSIP.WebSocketInterface(url)],
  uri: `sip:${number}@${domain}`,
  password: asked.get("password"),
  register: true,
  connection_recovery_min_interval: 1,
  connection_recovery_max_interval: 1,
});

phone.on("connected", () => tell("connected"));
phone.on("disconnected", () => tell("disconnected"));
phone.on("registered", () => tell("registered", { contact: phone.contact.toString() }));
phone.on("registrationFailed", (failed) => tell("not registered", { cause: failed.cause }));
phone.on("newRTCSession", ({ originator, session, request }) => {
  if (originator === "remote") {
    tell("called", { by: request.from.uri.user, target: request.ruri.toString() });
    session.terminate({ status_code: 486 });
  } else {
    session.on("failed", (failed) => tell("failed", { status: failed.message ? failed.message.status_code : 0 }));
    session.on("accepted", () => tell("accepted"));
  }
});

// What the test wants next; each answer is one number to call.
async function obey() {
  for (;;) {
    const said = await (await fetch("/asked")).text();
    if (said) phone.call(`sip:${said}@${domain}`, { mediaConstraints: { audio: true, video: false } });
  }
}

phone.start();
obey();
