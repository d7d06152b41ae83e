// Draws a dashboard with Grafana's own panel components, from a running Prometheus.
// It is not Grafana: variables take everything, links and annotations are left out,
// and of the transformations it knows those that the dashboards use.
import React, { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { createTheme, DataFrame, dateTime, FieldType, getDisplayProcessor, getFieldDisplayValues, ThemeContext, toDataFrame } from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, TimeSeries } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

const files = import.meta.glob('../blessd-*.json', { eager: true, import: 'default' }) as Record<string, any>;
const params = new URLSearchParams(location.search);
const dash = files[`../blessd-${params.get('d') || 'overview'}.json`];
const theme = createTheme({ colors: { mode: params.get('light') ? 'light' : 'dark' } });
const to = Math.floor(Number(params.get('to') || Date.now() / 1000));
const from = to - Number(params.get('s') || 900);
const step = Number(params.get('step') || 10);
const range: any = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: 'now-1h', to: 'now' } };
const WIDTH = 1440, UNIT = WIDTH / 24, ROW = 34, GAP = 8;

const replace = (expr: string) => expr
  .replaceAll('$__rate_interval', Math.max(4 * step, 60) + 's').replaceAll('$__range', to - from + 's')
  .replaceAll('$window', params.get('window') || '1d').replaceAll('$before', params.get('before') || '1w')
  .replace(/\$(job|instance|provider|endpoint)/g, '.+');

const legend = (format: string, labels: any) =>
  !format || format === '__auto' ? JSON.stringify(labels) : format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, k) => labels[k] ?? '');

const number = (v: any) => (v[1] === 'NaN' ? null : Number(v[1]));

async function ask(target: any): Promise<any[]> {
  const q = encodeURIComponent(replace(target.expr));
  const url = target.instant ? `/prom/api/v1/query?query=${q}&time=${to}` : `/prom/api/v1/query_range?query=${q}&start=${from}&end=${to}&step=${step}`;
  const answer = await (await fetch(url)).json();
  if (answer.status !== 'success') throw new Error(answer.error);
  return answer.data.result;
}

// What field overrides and thresholds make of a field.
function configure(frames: DataFrame[], p: any) {
  let series = 0;
  for (const frame of frames) {
    for (const field of frame.fields) {
      const name = field.config.displayNameFromDS || field.name;
      const config = structuredClone(p.fieldConfig.defaults);
      for (const o of p.fieldConfig.overrides) {
        const m = o.matcher;
        const subject = m.id === 'byFrameRefID' ? frame.refId! : name;
        const regexp = m.id === 'byRegexp' && new RegExp(m.options.replace(/^\/|\/$/g, ''));
        if (regexp ? !regexp.test(subject) : m.options !== subject) continue;
        for (const { id, value } of o.properties) {
          if (id.startsWith('custom.')) (config.custom ??= {})[id.slice(7)] = value;
          else config[id] = value;
        }
      }
      for (const s of config.thresholds?.steps || []) s.value ??= -Infinity;
      if (field.type === FieldType.number) {
        field.config = { ...config, displayNameFromDS: name };
        field.state = { displayName: name, seriesIndex: series++ } as any;
        const numbers = field.values.filter((v: any) => v != null && isFinite(v));
        const min = Math.min(...numbers, 0), max = Math.max(...numbers, 0);
        if (p.type === 'timeseries') (field.state as any).range = { min, max, delta: max - min };
      } else {
        field.config = { custom: config.custom, displayName: name };
      }
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' } as any);
    }
  }
  return frames;
}

async function run(p: any): Promise<DataFrame[]> {
  const answers = await Promise.all(p.targets.map(ask));
  if (p.type === 'table') return configure([join(p, answers)], p);
  const frames: DataFrame[] = [];
  answers.forEach((result: any[], i) => {
    const t = p.targets[i];
    for (const r of result) {
      const values = t.instant ? [r.value] : r.values;
      const name = legend(t.legendFormat, r.metric);
      frames.push(toDataFrame({ refId: t.refId, name, fields: [
        { name: 'Time', type: FieldType.time, values: values.map((v: any) => v[0] * 1000) },
        { name: 'Value', type: FieldType.number, labels: r.metric, config: { displayNameFromDS: name }, values: values.map(number) },
      ] }));
    }
  });
  return configure(frames, p);
}

// join does what merge, or joinByField, and then organize do with instant answers.
function join(p: any, answers: any[][]): DataFrame {
  const rows = new Map<string, any>();
  const organize = p.transformations.find((t: any) => t.id === 'organize').options;
  const by = p.transformations.find((t: any) => t.id === 'joinByField')?.options.byField;
  answers.forEach((result, i) => {
    for (const r of result) {
      const key = by ? r.metric[by] : JSON.stringify(r.metric);
      rows.set(key, { ...r.metric, ...rows.get(key), ['Value #' + p.targets[i].refId]: number(r.value) });
    }
  });
  const all = [...rows.values()].sort((a, b) => (b['Value #A'] ?? 0) - (a['Value #A'] ?? 0));
  const columns = Object.keys(organize.renameByName).sort((a, b) => organize.indexByName[a] - organize.indexByName[b]);
  return toDataFrame({ fields: columns.map((c) => ({
    name: organize.renameByName[c], type: c.startsWith('Value') ? FieldType.number : FieldType.string, values: all.map((r) => r[c] ?? null),
  })) });
}

function Body({ p, w, h }: any) {
  const [data, setData] = useState<DataFrame[] | null>(null), [error, setError] = useState('');
  useEffect(() => { run(p).then(setData, (e) => setError(String(e))); }, []);
  if (error) return <pre style={{ color: 'red' }}>{error}</pre>;
  if (!data) return null;
  if (!data.length || !data[0].length) return <div style={{ color: '#888', padding: 20 }}>No data</div>;
  if (p.type === 'timeseries') {
    return <TimeSeries frames={data} width={w} height={h} timeRange={range} timeZone="utc" legend={p.options.legend} options={p.options} />;
  }
  if (p.type === 'table') return <TableNG data={data[0]} width={w} height={h} structureRev={1} timeRange={range} />;
  const values = getFieldDisplayValues({ fieldConfig: p.fieldConfig, reduceOptions: p.options.reduceOptions, data, theme,
    sparkline: p.options.graphMode === 'area', timeZone: 'utc', replaceVariables: (s: any) => s } as any);
  if (p.type === 'stat') {
    return <BigValue theme={theme} width={w} height={h} count={1} disableWideLayout={false} alignmentFactors={{ title: '', text: '100.00%' }}
      value={{ ...values[0].display, title: undefined }} sparkline={values[0].sparkline} colorMode={p.options.colorMode} graphMode={p.options.graphMode}
      justifyMode={p.options.justifyMode} textMode={p.options.textMode} />;
  }
  const bar = Math.min(h / values.length, p.options.maxVizHeight + 8);
  return <div>{values.map((v, i) => (
    <div key={i} style={{ height: bar }}>
      <BarGauge theme={theme} width={w} height={bar - 6} value={v.display} field={v.field} display={v.view?.getFieldDisplayProcessor(v.colIndex!)}
        orientation={p.options.orientation} displayMode={p.options.displayMode} valueDisplayMode={p.options.valueMode}
        alignmentFactors={{ title: 'newsletter', text: '1.23 hours' }} itemSpacing={8} lcdCellWidth={12} showUnfilled />
    </div>
  ))}</div>;
}

function App() {
  const bottom = Math.max(...dash.panels.map((p: any) => p.gridPos.y + p.gridPos.h)) * ROW;
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ width: WIDTH + 16, padding: 8, color: theme.colors.text.primary, fontFamily: theme.typography.fontFamily, background: theme.colors.background.canvas }}>
        <h2 style={{ margin: '4px 0 8px' }}>{dash.title}</h2>
        <div style={{ position: 'relative', height: bottom, width: WIDTH }}>
          {dash.panels.map((p: any) => {
            const g = p.gridPos, w = g.w * UNIT - GAP, h = g.h * ROW - GAP;
            const place: any = { position: 'absolute', left: g.x * UNIT, top: g.y * ROW, width: w, height: h };
            if (p.type === 'row') return <div key={p.id} style={{ ...place, fontSize: 16, lineHeight: '26px' }}>{p.title}</div>;
            return (
              <div key={p.id} style={place}>
                <PanelChrome title={p.title} description={p.description} width={w} height={h}>{(iw, ih) => <Body p={p} w={iw} h={ih} />}</PanelChrome>
              </div>
            );
          })}
        </div>
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById('root')!).render(<App />);
