import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createMetrics } from '../../../shared/observability/metrics.ts'

const request = {
  route: 'blob',
  method: 'GET',
  status: 200,
  seconds: 0.02,
  receivedBytes: 100,
  sentBytes: 5000,
}

async function sample(metrics: ReturnType<typeof createMetrics>, name: string): Promise<string[]> {
  const text = await metrics.registry.metrics()
  return text.split('\n').filter((line) => line.startsWith(name))
}

test('requests are counted by route, method and class of status, with their bytes and durations', async () => {
  const metrics = createMetrics('edge', { processMetrics: false })
  for (const status of [200, 206, 404]) {
    metrics.http.started()
    metrics.http.finished({ ...request, status })
  }
  assert.deepEqual(await sample(metrics, 'outport_http_requests_total'), [
    'outport_http_requests_total{route="blob",method="GET",status="2xx",program="edge"} 2',
    'outport_http_requests_total{route="blob",method="GET",status="4xx",program="edge"} 1',
  ])
  assert.deepEqual(
    await sample(metrics, 'outport_http_sent_bytes_total{route="blob",method="GET",status="2xx"'),
    ['outport_http_sent_bytes_total{route="blob",method="GET",status="2xx",program="edge"} 10000'],
  )
  assert.match((await sample(metrics, 'outport_http_request_seconds_count')).join(), / 3$/)
})

test('durations are counted in cumulative buckets, with their sum, for each route and method', async () => {
  const metrics = createMetrics('edge', { processMetrics: false })
  for (const seconds of [0.001, 0.0011, 0.3, 700]) {
    metrics.http.started()
    metrics.http.finished({ ...request, seconds, status: seconds > 1 ? 503 : 200 })
  }
  const lines = await sample(metrics, 'outport_http_request_seconds')
  const valueOf = (name: string): string | undefined =>
    lines.find((line) => line.startsWith(`outport_http_request_seconds${name}`))?.split(' ')[1]
  const labels = 'route="blob",method="GET"'
  const bucket = (le: string) => valueOf(`_bucket{${labels},le="${le}",program="edge"}`)
  const bounds = ['0.001', '0.0025', '0.25', '0.5', '600', '+Inf']
  assert.deepEqual(bounds.map(bucket), ['1', '2', '2', '3', '3', '4'])
  assert.equal(valueOf(`_count{${labels},program="edge"}`), '4')
  assert.ok(Math.abs(Number(valueOf(`_sum{${labels},program="edge"}`)) - 700.3021) < 1e-9)
  assert.equal(lines.length, 16 + 1 + 2)
})

test('asking twice does not count twice', async () => {
  const metrics = createMetrics('edge', { processMetrics: false })
  metrics.http.started()
  metrics.http.finished(request)
  await metrics.registry.metrics()
  assert.match((await sample(metrics, 'outport_http_requests_total')).join(), / 1$/)
})

test('running requests go up and down', async () => {
  const metrics = createMetrics('primary', { processMetrics: false })
  metrics.http.started()
  metrics.http.started()
  metrics.http.finished(request)
  assert.deepEqual(await sample(metrics, 'outport_http_requests_running'), [
    'outport_http_requests_running{program="primary"} 1',
  ])
})

test('a client cannot make labels: its methods are one, and a cut response has no status', async () => {
  const metrics = createMetrics('edge', { processMetrics: false })
  for (const method of ['BREW', 'PROPFIND', 'X1', 'X2']) {
    metrics.http.started()
    metrics.http.finished({ ...request, method, status: 0 })
  }
  assert.deepEqual(await sample(metrics, 'outport_http_requests_total'), [
    'outport_http_requests_total{route="blob",method="other",status="cut",program="edge"} 4',
  ])
})

test("the process's own metrics are there", async () => {
  const metrics = createMetrics('edge')
  assert.match(
    await metrics.registry.metrics(),
    /process_resident_memory_bytes\{program="edge"\} \d+/,
  )
})
