"use strict";

// The page works without this script. With it, the server's own page is fetched again and again and only what differs is
// taken over: forms are never replaced, so a half-written reply and the focus stay where they are.

const REFRESH_MILLISECONDS = 1000;
let etag = null;

function timeFormat(time) {
  const moment = new Date(time.dateTime);
  time.textContent = moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  time.title = moment.toLocaleString();
}

function localTimes(root) {
  root.querySelectorAll("time").forEach(timeFormat);
}

function scrollToEnd(conversation) {
  conversation.scrollTop = conversation.scrollHeight;
}

function isAtEnd(conversation) {
  return conversation.scrollHeight - conversation.scrollTop - conversation.clientHeight < 60;
}

function announce(sentence) {
  const announcer = document.getElementById("announcer");
  announcer.textContent = sentence;
}

function renewRegion(fresh) {
  const shown = document.getElementById(fresh.id);
  if (!shown || shown.innerHTML === fresh.innerHTML) return;
  const hadFocus = shown.contains(document.activeElement);
  shown.innerHTML = fresh.innerHTML;
  if (hadFocus) shown.querySelector("button, input:not([type=hidden]), a")?.focus();
}

function renewBubble(shown, fresh) {
  const state = shown.querySelector(".state");
  const freshState = fresh.querySelector(".state");
  localTimes(fresh);
  if (state.outerHTML !== freshState.outerHTML) state.replaceWith(freshState);
}

function addBubble(conversation, bubble, number) {
  localTimes(bubble);
  bubble.classList.add("new");
  conversation.append(bubble);
  if (bubble.classList.contains("theirs") && !bubble.classList.contains("ghost")) {
    announce(`New text on ${number}: ${bubble.querySelector(".text").textContent}`);
  }
}

function renewConversation(shown, fresh, number) {
  const follows = isAtEnd(shown);
  const freshIds = new Set([...fresh.children].map((bubble) => bubble.id));
  [...shown.children].filter((bubble) => !freshIds.has(bubble.id)).forEach((bubble) => bubble.remove());
  let grew = false;
  for (const bubble of [...fresh.children]) {
    const known = document.getElementById(bubble.id);
    if (known) renewBubble(known, bubble);
    else {
      addBubble(shown, bubble, number);
      grew = true;
    }
  }
  if (grew && follows) scrollToEnd(shown);
}

function addPhone(phone) {
  localTimes(phone);
  document.getElementById("phones").prepend(phone);
  scrollToEnd(phone.querySelector(".conversation"));
  announce(`A new phone: ${phone.querySelector("h2").textContent}`);
}

function isInUse(phone) {
  return phone.contains(document.activeElement) || [...phone.querySelectorAll("input[name=text]")].some((field) => field.value);
}

function renewPhones(fresh) {
  const phones = [...fresh.querySelectorAll(".phone")];
  const freshIds = new Set(phones.map((phone) => phone.id));
  const gone = [...document.querySelectorAll(".phone")].filter((phone) => !freshIds.has(phone.id));
  const isEmpty = phones.length === 0;
  gone.filter((phone) => isEmpty || !isInUse(phone)).forEach((phone) => phone.remove());
  for (const phone of phones.reverse()) {
    const shown = document.getElementById(phone.id);
    if (!shown) addPhone(phone);
    else {
      const number = phone.querySelector("h2").textContent;
      renewConversation(shown.querySelector(".conversation"), phone.querySelector(".conversation"), number);
    }
  }
}

function takeOver(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  fresh.querySelectorAll("[data-live]").forEach(renewRegion);
  renewPhones(fresh);
  return fresh;
}

function showLost(isLost) {
  document.getElementById("lost").hidden = !isLost;
}

async function refresh() {
  const headers = etag ? { "If-None-Match": etag } : {};
  const answer = await fetch(location.pathname + location.search, { headers, cache: "no-store" });
  showLost(false);
  if (!answer.ok) return;
  etag = answer.headers.get("ETag");
  takeOver(await answer.text());
}

async function keepRefreshing() {
  try {
    if (!document.hidden) await refresh();
  } catch {
    etag = null;
    showLost(true);
  }
  setTimeout(keepRefreshing, REFRESH_MILLISECONDS);
}

// A problem stays until the next form is sent: a refresh must not wipe it away unread.
async function sendForm(form, button) {
  const body = new URLSearchParams(new FormData(form, button));
  const answer = await fetch(form.action, { method: "POST", body });
  const fresh = takeOver(await answer.text());
  etag = null;
  renewRegion(fresh.getElementById("problem"));
  if (answer.ok && form.hasAttribute("data-clears")) clearText(form, button);
}

function clearText(form, button) {
  const text = form.querySelector("input[name=text]");
  text.value = "";
  if (document.activeElement === button) text.focus();
  const conversation = form.closest(".phone")?.querySelector(".conversation");
  if (conversation) scrollToEnd(conversation);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  event.preventDefault();
  sendForm(form, event.submitter).catch(() => showLost(true));
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  button.textContent = "Copied";
  announce("Copied");
});

localTimes(document);
document.querySelectorAll(".conversation").forEach(scrollToEnd);
setTimeout(keepRefreshing, REFRESH_MILLISECONDS);
