// Upload: the bytes of the file as they are, with progress, and cancelled by Cancel alone.
import { $, all, showError } from "/static/app.js";

const file = $("#file");
const bar = $("#upload");
const cancel = $("#cancel");

function upload(chosen) {
  const problem = $("#problem");
  problem.replaceChildren();
  if (chosen.size > Number(file.dataset.limit)) {
    showError(problem, { told: { code: "INPUT_UPLOAD_REFUSED", message: "The file is larger than an upload may be.", fix: "backprop ui --upload-limit allows larger ones; or put it into a folder that is shown." } });
    return;
  }
  const request = new XMLHttpRequest();
  request.open("POST", `/upload?name=${encodeURIComponent(chosen.name)}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.upload.onprogress = (event) => (bar.value = (100 * event.loaded) / Math.max(1, event.total));
  const done = () => {
    bar.hidden = cancel.hidden = true;
    file.value = "";
  };
  request.onload = () => {
    done();
    const told = JSON.parse(request.responseText);
    if (request.status === 200) location.assign(told.location);
    else showError(problem, { told: told.error });
  };
  request.onerror = () => {
    done();
    showError(problem, { told: { code: "", message: "The upload broke off.", fix: "Send it again." } });
  };
  request.onabort = done;
  cancel.onclick = () => request.abort();
  bar.hidden = cancel.hidden = false;
  request.send(chosen);
}

file.addEventListener("change", () => file.files[0] && upload(file.files[0]));
const drop = $("#drop");
drop.addEventListener("dragover", (event) => event.preventDefault());
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
});
$("#find")?.addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of all("#files tbody tr")) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
