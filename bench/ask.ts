import { Agent, request as sendRequest, type IncomingMessage } from 'node:http'
import { buffer } from 'node:stream/consumers'
import { acceptedTypes } from './registry.ts'

/** A whole answer: as long as its head said it would be. */
export interface WholeAnswer {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
}

/** A GET without a log-in unless it says otherwise. */
export interface HowToAsk {
  readonly method?: 'GET' | 'HEAD'
  readonly authorization?: string | undefined
}

/** Asks one server for small things, over as many connections as it takes; the caller closes it. */
export interface Asker {
  /** @returns undefined when no whole answer came in time: refused, cut, or too late */
  ask(path: string, how?: HowToAsk): Promise<WholeAnswer | undefined>
  close(): void
}

/** @param deadlineMs how long a client waits for the whole answer */
export function createAsker(origin: URL, { deadlineMs }: { readonly deadlineMs: number }): Asker {
  const agent = new Agent({ keepAlive: true, maxFreeSockets: 1024, scheduling: 'lifo' })
  const { hostname, port } = origin
  return {
    async ask(path, { method = 'GET', authorization } = {}) {
      const headers = {
        accept: acceptedTypes,
        ...(authorization !== undefined && { authorization }),
      }
      const late = new AbortController()
      const timer = setTimeout(() => late.abort(), deadlineMs)
      try {
        const response = await new Promise<IncomingMessage>((resolve, reject) => {
          const options = { hostname, port, path, method, headers, agent, signal: late.signal }
          sendRequest(options, resolve).on('error', reject).end()
        })
        // An answer that is cut ends with an error.
        const body = await buffer(response)
        return { status: response.statusCode ?? 0, headers: response.headers, body }
      } catch {
        return undefined
      } finally {
        clearTimeout(timer)
      }
    },
    close: () => agent.destroy(),
  }
}
