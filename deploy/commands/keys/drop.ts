import { defineCommand } from '../../command-line.ts'
import { printAnswer } from '../edges/change.ts'
import { adminOptions } from '../edges/options.ts'

/** `outport keys drop` */
export const drop = defineCommand({
  name: 'keys drop',
  summary: 'end a key that does not sign any more: what it signed counts no more',
  words: ['ID'],
  options: adminOptions,
  async run(options, [id = '']) {
    const { withAdminApi } = await import('../../admin-api.ts')
    return withAdminApi(options, async (api) => {
      const { text } = await api.call(`/keys/${encodeURIComponent(id)}`, {
        method: 'DELETE',
        absent: `there is no key '${id}' at this primary: 'outport keys list' shows them`,
      })
      printAnswer(text, { json: options.json, done: `The key '${id}' counts no more.` })
      return 0
    })
  },
})
