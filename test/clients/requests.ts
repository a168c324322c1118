import { waitForLog, type Outport } from './outport.ts'

/** What a program's log says of a request that it answered. */
export interface LoggedRequest {
  readonly program: 'primary' | 'edge'
  /** When the answer was over, in milliseconds since 1970. */
  readonly endedAt: number
  readonly ms: number
  readonly method: string
  /** `blob`, `manifest`, … */
  readonly route: string
  readonly status: number
  readonly listener?: string
  /** Sent, headers included. */
  readonly bytes: number
  /** Whether the client left before the end. */
  readonly aborted: boolean
}

/** Waits until the log, which is written with a delay, has the requests that are expected. @returns all of them */
export async function waitForRequests(
  outport: Outport,
  isExpected: (requests: readonly LoggedRequest[]) => boolean,
): Promise<readonly LoggedRequest[]> {
  return requestsIn(await waitForLog(outport, (text) => isExpected(requestsIn(text))))
}

/** Whether it is one of the edge's answers with a blob. */
export function isEdgeBlob({ program, method, route }: LoggedRequest): boolean {
  return program === 'edge' && method === 'GET' && route === 'blob'
}

/** Whether it is one of the primary's answers with a blob. */
export function isPrimaryBlob({ program, method, route }: LoggedRequest): boolean {
  return program === 'primary' && method === 'GET' && route === 'blob'
}

/** Whether it is one of the edge's answers with a manifest, or about one. */
export function isEdgeManifest({ program, route }: LoggedRequest): boolean {
  return program === 'edge' && route === 'manifest'
}

function requestsIn(log: string): LoggedRequest[] {
  return log
    .split('\n')
    .slice(0, -1) // the last line may be half written
    .filter((line) => line.includes('"msg":"request"'))
    .map((line) => {
      const { time, aborted = false, ...rest } = JSON.parse(line) as RequestLine
      return { ...rest, aborted, endedAt: Date.parse(time) }
    })
}

type RequestLine = Omit<LoggedRequest, 'endedAt' | 'aborted'> & {
  readonly time: string
  readonly aborted?: boolean
}
