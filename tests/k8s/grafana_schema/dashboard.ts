// What our dashboards may hold, in the types that Grafana publishes: `get-tools.sh` turns this into a
// JSON schema. A dashboard's own types leave open what a kind of panel adds, so that is put in here.
// Options may be left out: Grafana fills them in. Since version 11 the type of Prometheus' queries is
// no longer published, so that one is of Grafana 10.4.
import type {
  Dashboard,
  FieldConfig,
  FieldConfigSource,
  Panel,
  RowPanel,
} from './node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type * as stat from './node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type * as timeseries from './node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';
import type { PrometheusDataQuery } from './node_modules/grafana-schema-10/dist/esm/raw/composable/prometheus/dataquery/x/PrometheusDataQuery_types.gen';

type Shown<Type, Options, Custom> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Type;
  options: Partial<Options>;
  targets: PrometheusDataQuery[];
  fieldConfig: Omit<FieldConfigSource, 'defaults'> & {
    defaults: Omit<FieldConfig, 'custom'> & { custom?: Custom };
  };
};

export type TierserveDashboard = Omit<Dashboard, 'panels'> & {
  panels: Array<
    | RowPanel
    | Shown<'stat', stat.Options, never>
    | Shown<'timeseries', timeseries.Options, timeseries.FieldConfig>
  >;
};
