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
