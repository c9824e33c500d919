import { $, fill, getText, showError } from "/static/app.js";

try {
  fill($("#models"), await getText("/models/list"));
} catch (error) {
  showError($("#models"), error);
}
