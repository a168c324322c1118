import http, { type ServerResponse } from 'node:http'
import { isIPv6, type AddressInfo } from 'node:net'
import type { Registry } from 'prom-client'
import type { Logger } from '../observability/log.ts'
import { isReady, lookAt, type Readiness } from './readiness.ts'

export interface MetricsServerOptions {
  readonly address: string
  readonly port: number
  readonly registry: Registry
  readonly readiness: Readiness
  readonly log: Logger
}

/** Whoever started it closes it. */
export interface MetricsServer {
  readonly url: URL
  close(): Promise<void>
}

/**
 * Starts the operator's listener: `/metrics`, `/readyz` with details, `/healthz`. It has no log-in, so it listens on
 * loopback unless configured.
 * @throws the system's error when it cannot listen
 */
export async function createMetricsServer(options: MetricsServerOptions): Promise<MetricsServer> {
  const { address, port, log } = options
  const server = http.createServer((request, response) => {
    answer(request.url ?? '', response, options).catch((error: unknown) => {
      log.error({ err: error, route: 'metrics' }, 'a request failed')
      if (response.headersSent) response.destroy()
      else send(response, 500, 'text/plain', 'failed; see the log\n')
    })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen({ host: address, port }, () => {
      server.off('error', reject)
      resolve()
    })
  })
  const bound = server.address() as AddressInfo
  const host = isIPv6(bound.address) ? `[${bound.address}]` : bound.address
  return {
    url: new URL(`http://${host}:${bound.port}`),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

async function answer(
  url: string,
  response: ServerResponse,
  { registry, readiness }: MetricsServerOptions,
): Promise<void> {
  const path = url.split('?')[0]
  if (path === '/metrics') {
    send(response, 200, registry.contentType, await registry.metrics())
  } else if (path === '/healthz') {
    send(response, 200, 'application/json', JSON.stringify({ status: 'ok' }))
  } else if (path === '/readyz') {
    const checks = await lookAt(readiness)
    const status = isReady(checks) ? 'ok' : 'not ready'
    send(
      response,
      status === 'ok' ? 200 : 503,
      'application/json',
      JSON.stringify({ status, checks }),
    )
  } else {
    send(response, 404, 'text/plain', 'there are /metrics, /readyz and /healthz\n')
  }
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) })
  response.end(body)
}
