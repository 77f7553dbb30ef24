// Every form works without this. It follows what changes, counts a text while it is typed, and keeps a chosen file.

const FIRST_WAIT = 2000;
const LONGEST_WAIT = 30000;

for (const element of document.querySelectorAll("[data-poll]")) {
  follow(element);
}

// What may take long comes after the page.
for (const element of document.querySelectorAll("[data-load]")) {
  fetch(element.dataset.load)
    .then((answer) => (answer.ok ? answer.text() : Promise.reject(answer.status)))
    .then((text) => (element.textContent = text))
    .catch(() => {});
}

// Of another page the part with the same name.
for (const element of document.querySelectorAll("[data-part]")) {
  fetch(element.dataset.part)
    .then((answer) => (answer.ok ? answer.text() : Promise.reject(answer.status)))
    .then((text) => new DOMParser().parseFromString(text, "text/html").getElementById(element.id))
    .then((found) => element.replaceChildren(...found.childNodes))
    .catch(() => {});
}

// Where the browser lets a page copy: over https, or on this machine.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
    button.setAttribute("aria-label", "Copied");
  });
}

// Waits longer while nothing changes, not at all in a hidden tab, and stops when what it follows is finished.
async function follow(element) {
  let wait = FIRST_WAIT;
  while (!element.querySelector("[data-finished]")) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    if (document.hidden) {
      continue;
    }
    try {
      const answer = await fetch(element.dataset.poll, { redirect: "manual" });
      if (!answer.ok) {
        return;
      }
      const text = await answer.text();
      wait = show(element, text) ? FIRST_WAIT : Math.min(wait * 1.5, LONGEST_WAIT);
    } catch {
      wait = Math.min(wait * 2, LONGEST_WAIT);
    }
  }
}

// Whether it was something new. Somebody who reads at the end stays at the end.
function show(element, text) {
  if (element.dataset.shown === text) {
    return false;
  }
  const isNew = "shown" in element.dataset;
  const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  element.dataset.shown = text;
  const link = element.contains(document.activeElement) && document.activeElement.getAttribute("href");
  element.innerHTML = text;
  if (link) {
    element.querySelector(`[href="${CSS.escape(link)}"]`)?.focus({ preventScroll: true });
  }
  if (element.id === "texts") {
    document.querySelector("[data-asks]").hidden = !element.querySelector("[data-doubt]");
    showStop(element.querySelector("[data-stopped]"));
  }
  if (isAtEnd) {
    element.scrollTop = element.scrollHeight;
  }
  return isNew;
}

// A STOP takes the box away and shows what stood in it, a START brings both back. The focus follows.
function showStop(stop) {
  const place = document.getElementById("stopped");
  const form = document.getElementById("answer");
  if (form.hidden === Boolean(stop)) {
    return;
  }
  const [from, to] = stop ? [form, place] : [place, form.elements.text];
  const hadFocus = from.contains(document.activeElement);
  const typed = form.elements.text.value;
  form.hidden = Boolean(stop);
  place.querySelector("[data-notice]").replaceChildren(...(stop ? [stop.content.cloneNode(true)] : []));
  place.querySelector("[data-unsent]").hidden = !stop || !typed;
  place.querySelector("blockquote").textContent = typed;
  if (hadFocus) {
    to.focus();
  }
}

for (const element of document.querySelectorAll(".texts")) {
  element.scrollTop = element.scrollHeight;
}

document.addEventListener("keydown", (event) => {
  const field = document.querySelector("[data-slash]");
  const isTyping = event.target.closest("input, textarea, select");
  if (event.key === "/" && field && !isTyping) {
    event.preventDefault();
    field.focus();
  }
});

for (const form of document.querySelectorAll("[data-enter-sends]")) {
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target.matches("textarea")) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
}

for (const field of document.querySelectorAll("[data-measure]")) {
  let timer;
  const count = () => {
    clearTimeout(timer);
    timer = setTimeout(() => measure(field), 250);
  };
  field.addEventListener("input", count);
  field.form.elements.sender_id?.addEventListener("input", count);
  if (field.value) {
    count();
  }
}

const LETTERS = { "GSM-7": "ordinary letters (GSM-7)", "UCS-2": "special letters or signs (Unicode)" };

async function measure(field) {
  const place = document.getElementById(field.getAttribute("aria-describedby"));
  const body = new FormData();
  body.set("csrf_token", field.form.elements.csrf_token.value);
  body.set("text", field.value);
  // What a promotional sender adds counts too.
  const sender = field.form.elements.sender_id;
  if (sender) {
    body.set("sender_id", sender.value);
  }
  const answer = await fetch(field.dataset.measure, { method: "POST", body });
  if (!answer.ok) {
    return;
  }
  const found = await answer.json();
  if (found.problem) {
    place.textContent = found.problem;
    return;
  }
  const parts = found.parts === 1 ? "1 part" : `${found.parts} parts`;
  const cost = found.cost ? `, about ${found.cost}` : "";
  const letters = found.characters ? `, ${LETTERS[found.encoding]}` : "";
  place.textContent = `${found.characters} characters, ${parts}${cost}${letters}.`;
  if (found.character) {
    place.append(` “${found.character}” makes each part shorter: 70 characters in place of 160. `);
    if (found.alternative) {
      place.append(replacer(field, found));
    }
  }
}

function replacer(field, found) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "link";
  button.textContent = `Write “${found.alternative}” instead`;
  button.addEventListener("click", () => {
    field.value = field.value.replaceAll(found.character, found.alternative);
    field.focus();
    measure(field);
  });
  return button;
}

// Check and send are sent from here, so that the file that was chosen stays chosen and its way up is seen.
const send = document.querySelector("[data-send]");
let call, turn;
send?.addEventListener("submit", async (event) => {
  const button = event.submitter;
  if (button?.hasAttribute("data-download")) {
    return;
  }
  event.preventDefault();
  const mine = (turn = {});
  const isCheck = !button || button.hasAttribute("data-check");
  const body = new FormData(send);
  const fields = send.querySelectorAll("fieldset, button");
  if (isCheck) {
    document.getElementById("check").replaceChildren();
  } else {
    // What is on its way is what was checked.
    fields.forEach((field) => (field.disabled = true));
  }
  try {
    const answer = await goUp(isCheck ? send.action : button.formAction, body, isCheck);
    const place = answer.getResponseHeader("Location");
    if (place) {
      tell("It is taken in.");
      location.assign(place);
      return;
    }
    tell("");
    showCheck(answer.responseText);
  } catch (error) {
    tell(error.name === "AbortError" ? "" : isCheck ? UNCHECKED : UNSURE);
  } finally {
    fields.forEach((field) => (field.disabled = false));
    document.getElementById("upload").hidden = mine === turn;
  }
});

const UNCHECKED = "The service did not answer. Nothing was sent: check again.";
const UNSURE =
  "The service did not answer, so nobody knows whether it took this in. Press the same button again: it is not sent twice.";

function tell(sentence) {
  const place = document.getElementById("upload-told");
  if (place.textContent !== sentence) {
    place.textContent = sentence;
  }
}

// With a bar that follows what has left; then one without an end, while the service reads. Told by ear four times.
function goUp(url, body, isCheck) {
  call?.abort();
  const bar = document.querySelector("#upload progress");
  const percent = document.getElementById("upload-percent");
  document.getElementById("upload").hidden = false;
  bar.value = 0;
  percent.textContent = "";
  return new Promise((resolve, reject) => {
    call = new XMLHttpRequest();
    call.upload.addEventListener("progress", ({ loaded, total }) => {
      bar.value = total ? loaded / total : 0;
      percent.textContent = `${Math.floor(bar.value * 100)} %`;
      tell(`The file goes up: ${Math.floor(bar.value * 4) * 25} %.`);
    });
    call.upload.addEventListener("load", () => {
      bar.removeAttribute("value");
      percent.textContent = "";
      tell(isCheck ? "It is up. Its rows are read…" : "It is up. It is taken in…");
    });
    call.addEventListener("load", ({ target }) => resolve(target));
    call.addEventListener("error", () => reject(new Error("no answer")));
    call.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
    call.open("POST", url);
    call.setRequestHeader("X-By-Script", "1");
    call.send(body);
  });
}

// Of a whole page what it says of the check, or whatever else it says.
function showCheck(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  const place = document.getElementById("check");
  const found = page.getElementById("check");
  place.replaceChildren(...(found ?? page.querySelector("main")).childNodes);
  place.querySelector("[data-choose-again]")?.remove();
  for (const name of ["sheet", "column"]) {
    const choice = page.getElementById(name);
    if (choice) {
      document.getElementById(name).replaceChildren(...choice.childNodes);
    }
  }
  place.querySelectorAll("[data-steps]").forEach(stepThrough);
  place.scrollIntoView({ block: "nearest" });
  document.querySelector("#column select:required")?.focus();
}

document.querySelectorAll("[data-steps]").forEach(stepThrough);

// One of a list at a time, with buttons to the one before and the next.
function stepThrough(list) {
  const items = [...list.children];
  if (items.length < 2) {
    return;
  }
  let at = 0;
  const place = document.createElement("span");
  const step = (words, by) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "secondary outline";
    button.textContent = words;
    button.addEventListener("click", () => show((at + by + items.length) % items.length));
    return button;
  };
  const show = (wanted) => {
    at = wanted;
    items.forEach((item, number) => (item.hidden = number !== at));
    place.textContent = `${at + 1} of ${items.length}`;
  };
  const buttons = document.createElement("p");
  buttons.className = "buttons steps";
  buttons.append(step("Previous", -1), place, step("Next", 1));
  list.after(buttons);
  show(0);
}

// Another file has other sheets, and another sheet other columns.
send?.elements.file.addEventListener("change", () => document.getElementById("sheet").replaceChildren());
send?.addEventListener("change", (event) => {
  if (event.target.matches("[name=file], [name=sheet]")) {
    document.getElementById("column").replaceChildren();
  }
});

// A file may be dropped anywhere on the page; beside the form the browser would open it instead.
if (send) {
  const holdsFile = (event) => event.dataTransfer.types.includes("Files");
  document.addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    const field = send.elements.file;
    if (!holdsFile(event)) {
      return;
    }
    event.preventDefault();
    if (event.dataTransfer.files.length && !field.matches(":disabled")) {
      const first = new DataTransfer();
      first.items.add(event.dataTransfer.files[0]);
      field.files = first.files;
      field.dispatchEvent(new Event("input", { bubbles: true }));
      field.dispatchEvent(new Event("change", { bubbles: true }));
      field.focus();
    }
  });
}

// What was checked is no longer what stands in the form.
send?.addEventListener("input", (event) => {
  const place = document.getElementById("check");
  if (!place.contains(event.target)) {
    call?.abort();
    place.replaceChildren();
  }
});
