export function StatusView() {
  return <section class="status" />;
}
