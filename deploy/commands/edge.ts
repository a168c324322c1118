import { defineCommand } from '../command-line.ts'
import { configOptions } from './config-options.ts'

/** `outport edge` */
export const edge = defineCommand({
  name: 'edge',
  summary: 'a mirror next to the machines that pull',
  options: configOptions,
  async run(options) {
    const { checkAlone, runAlone } = await import('../run-alone.ts')
    return options.check ? checkAlone('edge', options) : runAlone('edge', options)
  },
})
