import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { createMetricsServer } from '../../../shared/http/metrics-server.ts'
import type { Readiness } from '../../../shared/http/readiness.ts'
import { createMetrics } from '../../../shared/observability/metrics.ts'
import { createRecordingLog } from '../../kit/http-server.ts'

async function start(test: TestContext, readiness: Readiness) {
  const { registry } = createMetrics('edge', { processMetrics: false })
  const server = await createMetricsServer({
    address: '127.0.0.1',
    port: 0,
    registry,
    readiness,
    log: createRecordingLog().log,
  })
  test.after(() => server.close())
  return server.url
}

test('metrics are served in the form that Prometheus asks for', async (t) => {
  const url = await start(t, async () => [])
  const response = await fetch(new URL('/metrics', url))
  assert.equal(response.status, 200)
  assert.match(response.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/)
  assert.match(await response.text(), /^# HELP outport_http_requests_running /m)
})

test('readiness is told in detail here', async (t) => {
  let ok = true
  const url = await start(t, async () => [{ name: 'database', ok, reason: 'connection refused' }])
  assert.equal((await fetch(new URL('/readyz', url))).status, 200)
  ok = false
  const response = await fetch(new URL('/readyz', url))
  assert.equal(response.status, 503)
  assert.deepEqual(await response.json(), {
    status: 'not ready',
    checks: [{ name: 'database', ok: false, reason: 'connection refused' }],
  })
})

test('a check that throws is told as a failed one', async (t) => {
  const url = await start(t, async () => {
    throw new Error('no database')
  })
  const response = await fetch(new URL('/readyz', url))
  assert.equal(response.status, 503)
  assert.match(await response.text(), /no database/)
})

test('nothing else is there, and a query changes nothing', async (t) => {
  const url = await start(t, async () => [])
  assert.equal((await fetch(new URL('/v2/', url))).status, 404)
  assert.equal((await fetch(new URL('/healthz?x', url))).status, 200)
})
