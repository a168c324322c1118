import type { TestContext } from 'node:test'
import type { AdminApiCall, AdminApiReply, AdminApiServer } from '../kit/admin-api-server.ts'
import { runProgram } from './program.ts'

/** Found in nothing that a command prints. */
export const adminPassword = 'Planted-Secret-1'

/** Runs a command of an administrator against a server in the place of a primary. */
export function runAdminCommand(
  t: TestContext,
  api: AdminApiServer,
  {
    args,
    reply,
    env = { OUTPORT_ADMIN_PASSWORD: adminPassword },
    input = '',
  }: {
    readonly args: readonly string[]
    readonly reply?: ((call: AdminApiCall) => AdminApiReply) | undefined
    readonly env?: Readonly<Record<string, string>>
    readonly input?: string
  },
) {
  api.replyWith(reply)
  return runProgram(t, ['deploy/outport.ts', ...args, '--primary', api.url], { env, input })
}
