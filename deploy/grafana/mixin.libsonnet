// For those who collect their dashboards and alerts with jsonnet, as a monitoring
// mixin. It has no settings: the files beside it are the source.
{
  grafanaDashboards+:: {
    'blessd-overview.json': import 'blessd-overview.json',
    'blessd-deliverability.json': import 'blessd-deliverability.json',
  },
  prometheusAlerts+:: std.parseYaml(importstr '../prometheus/alerts.yml'),
}
