// What htmx leaves to the page: no request while the page is hidden, and a note while the gateway does not answer.
const note = document.getElementById("unreachable");

document.addEventListener("htmx:before:request", (event) => {
    if (document.hidden) event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
    if (!document.hidden) htmx.trigger("#main", "shown");
});
document.addEventListener("htmx:error", () => { note.hidden = false; });
document.addEventListener("htmx:after:request", (event) => {
    note.hidden = event.detail.ctx.response.status < 500;
});

for (const button of document.querySelectorAll("button[data-copies]")) {
    button.hidden = !navigator.clipboard;
}
document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copies]");
    if (button) navigator.clipboard.writeText(button.dataset.copies).then(() => { button.textContent = "✓"; });
});
