import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import type { TestContext } from 'node:test'

/** A request that an admin API got. */
export interface AdminApiCall {
  readonly method: string
  readonly path: string
  readonly authorization: string | undefined
  /** Parsed; undefined without one. */
  readonly body: unknown
}

/** What it answers; 200 and an empty object without. */
export interface AdminApiReply {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: unknown
}

/** A server in the place of a primary's admin API, that says what a test wants. */
export interface AdminApiServer {
  readonly url: string
  readonly calls: readonly AdminApiCall[]
  /** Forgets the calls so far, and answers so from now on. */
  replyWith(reply: ((call: AdminApiCall) => AdminApiReply) | undefined): void
}

/** Starts one; it ends with the test. */
export async function startAdminApiServer(t: Pick<TestContext, 'after'>): Promise<AdminApiServer> {
  const calls: AdminApiCall[] = []
  let reply: ((call: AdminApiCall) => AdminApiReply) | undefined

  async function answer(request: IncomingMessage): Promise<AdminApiReply> {
    const written = await text(request)
    const call = {
      method: request.method ?? '',
      path: request.url ?? '',
      authorization: request.headers.authorization,
      body: written === '' ? undefined : (JSON.parse(written) as unknown),
    }
    calls.push(call)
    return reply?.(call) ?? { body: {} }
  }

  const server = createServer((request, response) => {
    answer(request).then(
      ({ status = 200, headers = {}, body }) => {
        response.writeHead(status, { 'content-type': 'application/json', ...headers })
        response.end(body === undefined ? '' : JSON.stringify(body))
      },
      (error: unknown) => response.destroy(error as Error),
    )
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls,
    replyWith(next) {
      calls.length = 0
      reply = next
    },
  }
}
